"""The proof: static mask against dated series, through the standard stages, truth known."""

from .run import RECOMMENDED, Check, ProofResult, Spectrum, Total, run_proof, tabulate

__all__ = [
    "RECOMMENDED",
    "Check",
    "ProofResult",
    "Spectrum",
    "Total",
    "run_proof",
    "tabulate",
]
