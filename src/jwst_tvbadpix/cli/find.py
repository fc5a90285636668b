"""``tvbadpix find``: blank-sky and failed exposures of a mode."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import replace_whole
from ._shared import add_output_dir, report_paths, report_planned, write_table

if TYPE_CHECKING:
    from ..programmes.mast import MastQuery

__all__ = ["add_command"]

_EPILOG = """\
Without FILES: writes the request for all public exposures of the mode, darks included, as JSON
(find_MODE.json) and as a script that sends it with astroquery and writes the answer as a table
(find_MODE.py -> find_MODE.csv). That table, which needs no pixels, can then be given as FILES.
With FILES: ranks them. A blank field without a source scores 1, a failed visit 0.9, an exposure
of which the header says nothing 0.7, a dark 0.8; a source that is seen, or pixels that are not at
hand, cost most of it. From 0.3 on an exposure is a candidate. The last line is the summary; the
exit status is 1 where there is no candidate.

examples:
  tvbadpix find --mode LRS --after 2023-01-01
  tvbadpix find --mode LRS field --association lrs --output lrs.ecsv
"""

# What the script does with the request that is put at its top.
_SCRIPT = '''\
"""Ask the archive for the exposures of a mode; needs astroquery and the network."""

from astropy.table import Table
from astroquery.mast import Mast

SERVICE = {service!r}
PARAMS = {params}
ENDINGS = {endings!r}

found = Mast.service_request(SERVICE, PARAMS)
wanted = [k for k, name in enumerate(found["filename"]) if str(name).endswith(ENDINGS)]
Table(found[wanted]).write({table!r}, format="ascii.csv", overwrite=True)
print(f"{{len(wanted)}} files of {{len(found)}}: {table}")
'''


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    find = commands.add_parser(
        "find",
        help="find blank-sky and failed exposures of a mode",
        description="Find exposures for a time-variable mask: the query to the archive, and the "
        "ranking of what it holds.",
        epilog=_EPILOG,
    )
    find.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILES",
        help="FITS files, folders, or tables of headers (.csv, .ecsv, .json; default: none, the "
        "query is written)",
    )
    find.add_argument(
        "--mode",
        required=True,
        metavar="MODE",
        help="LRS, imaging, MRS, NIRSpec, or the name of one",
    )
    find.add_argument(
        "--after",
        metavar="DATE",
        help="exposures from this date on, YYYY-MM-DD (UTC; default: all)",
    )
    find.add_argument(
        "--before",
        metavar="DATE",
        help="exposures before this date, YYYY-MM-DD (UTC; default: all)",
    )
    find.add_argument(
        "--output",
        type=Path,
        metavar="FILE.ecsv",
        help="write the ranking as ECSV (default: it is printed alone)",
    )
    find.add_argument(
        "--association",
        metavar="NAME",
        help="write the candidates as NAME_asn.json for time_variable_bad_pixel (default: they "
        "are only listed)",
    )
    add_output_dir(find)
    find.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..errors import InputError
    from ..programmes.associations import make_name
    from ..programmes.mast import read_mjd

    if options.after and options.before and read_mjd(options.after) >= read_mjd(options.before):
        raise InputError(
            f"expected --after before --before, found {options.after} and {options.before}; "
            "exchange them"
        )
    if options.association is not None and not make_name([options.association]):
        raise InputError(
            f"expected letters or digits in --association, found {options.association!r}; give "
            "another name"
        )
    return _rank(options) if options.files else _write_query(options)


def _write_query(options: argparse.Namespace) -> int:
    from ..atomic import find_creation_time
    from ..errors import InputError
    from ..programmes.find import build_find_query

    if options.output or options.association:
        raise InputError(
            "expected FILES with --output and --association, found none; without FILES the query "
            "is written (--output-dir)"
        )
    query = build_find_query(
        options.mode,
        after=options.after,
        before=options.before,
        public_at=find_creation_time().isoformat()[:19],
    )
    stem = f"find_{options.mode.lower()}"
    texts = {
        options.output_dir / f"{stem}.json": query.to_json() + "\n",
        options.output_dir / f"{stem}.py": _format_script(query, f"{stem}.csv"),
    }
    types = ", ".join(dict(query.filters)["exp_type"])
    if options.dry_run:
        report_planned(texts)
        print(f"find: nothing written, query to {query.service} for {types}")
        return 0
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        with replace_whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    report_paths(texts)
    print(f"run python {stem}.py there, then tvbadpix find --mode {options.mode} {stem}.csv")
    print(f"find: query to {query.service} written for {types}")
    return 0


def _format_script(query: "MastQuery", table: str) -> str:
    return _SCRIPT.format(
        service=query.service,
        params=json.dumps(query.params, indent=4),
        endings=tuple(f"_{stage}.fits" for stage in query.stages),
        table=table,
    )


def _rank(options: argparse.Namespace) -> int:
    from ..programmes.associations import write_associations
    from ..programmes.find import (
        associate_candidates,
        list_observations,
        rank_candidates,
        tabulate,
    )
    from ..steps._base import show_progress

    show = show_progress("Reading headers", unit="file")
    observations = [
        one
        for one in list_observations(options.files, progress=show)
        if _is_between(one.start_mjd, options.after, options.before)
    ]
    show = show_progress("Looking at the exposures", unit="exposure")
    ranked = rank_candidates(observations, options.mode, progress=show)
    table = tabulate(ranked)
    if options.association:
        made = associate_candidates(ranked, options.association, options.mode)
    if options.output:
        write_table(table, options.output, dry_run=options.dry_run)
    if len(table):
        shown = ("file", "kind", "score", "date", "exposure_s", "target", "reason")
        print("\n".join(table[list(shown)].pformat(max_lines=-1, max_width=-1, align="<")))
    kinds = [one.kind for one in ranked]
    n_found = sum(map(bool, kinds))
    if options.association:
        if options.dry_run:
            report_planned(options.output_dir / association.filename for association in made)
        else:
            report_paths(write_associations(made, options.output_dir))
        n_left = n_found - sum(len(association.members) for association in made)
        if n_left:
            print(f"{n_left} candidates are in no association: give their _rate, _rateints or _cal")
    print(
        f"find: {n_found} candidates of {len(kinds)} exposures "
        f"({kinds.count('blank')} blank sky, {kinds.count('failed')} failed, "
        f"{kinds.count('dark')} dark)"
    )
    return 0 if n_found else 1


def _is_between(mjd: float | None, after: str | None, before: str | None) -> bool:
    """Tell whether an exposure began between two dates; one without a date did."""
    from ..programmes.mast import read_mjd

    if mjd is None:
        return True
    return (after is None or mjd >= read_mjd(after)) and (before is None or mjd < read_mjd(before))
