// Shows the light curve of the pixel that is named in `input`, or how to plot it oneself.
const found = input.value.match(/^\s*(?:y=)?(\d+)[\s,;]+(?:x=)?(\d+)\s*$/);
const clear = () => {
  for (const source of [points, spans, levels])
    source.data = Object.fromEntries([...Object.keys(source.data)].map(key => [key, []]));
};
const get = (source, name) => source.get_column(name);
const date = mjd => new Date((mjd - 40587) * 86400000).toISOString().slice(0, 10);

if (found === null) {
  clear();
  marker.data = {y: [], x: []};
  curve.title.text = "No pixel";
  message.text = `Expected row and column, as 512, 380 (0-based, full frame), found "${input.value}".`;
  return;
}
const [y, x] = [Number(found[1]), Number(found[2])];
if (y >= facts.shape[0] || x >= facts.shape[1]) {
  clear();
  marker.data = {y: [], x: []};
  curve.title.text = "No pixel";
  message.text = `Expected a pixel of the detector, ${facts.shape[0]} rows and `
    + `${facts.shape[1]} columns (0-based), found y=${y} x=${x}.`;
  return;
}
marker.data = {y: [y], x: [x]};
const [ys, xs] = [get(pixels, "y"), get(pixels, "x")];
let pixel = -1;
for (let i = 0; i < ys.length; i++)
  if (ys[i] === y && xs[i] === x) { pixel = i; break; }
if (pixel < 0) {
  clear();
  curve.title.text = `y=${y} x=${x}: not kept`;
  message.text = facts.advice.replaceAll("<y>", y).replaceAll("<x>", x);
  return;
}

// Its intervals: flagged ones, and those that only the last look speaks for.
const mine = [];
const owner = get(intervals, "pixel");
for (let i = 0; i < owner.length; i++)
  if (owner[i] === pixel)
    mine.push(Object.fromEntries(Object.keys(facts.columns).map(
      key => [key, get(intervals, facts.columns[key])[i]])));
const [first, last] = [facts.first_mjd, facts.last_mjd];
const ms = mjd => (Math.min(Math.max(mjd, first), last) - 40587) * 86400000;
spans.data = {
  left: mine.map(row => ms(row.start)),
  right: mine.map(row => ms(row.end)),
  alpha: mine.map(row => row.dnu ? 0.3 : 0.1),
};

const n = facts.mjd.length;
const [step, noise_step] = ["residual_step", "noise_step"].map(key => get(pixels, key)[pixel]);
const [residual, noise] = [get(pixels, "residual"), get(pixels, "noise")];
const data = {time: [], residual: [], low: [], high: [], noise: [], colour: [], exposure: []};
const good = [];
for (let k = 0; k < n; k++) {
  const value = residual[pixel * n + k];
  if (value === -32768) continue;
  const [level, error] = [value * step, noise[pixel * n + k] * noise_step];
  const bad = mine.some(row => row.start <= facts.mjd[k] && facts.mjd[k] < row.end);
  if (!bad) good.push(level);
  data.time.push(ms(facts.mjd[k]));
  data.residual.push(level);
  data.low.push(level - error);
  data.high.push(level + error);
  data.noise.push(error);
  data.colour.push(bad ? facts.bad_colour : facts.good_colour);
  data.exposure.push(facts.exposures[k]);
}
points.data = data;

// The model: the median of the good exposures, plus the amplitude where bad.
good.sort((a, b) => a - b);
const middle = good.length
  ? (good[(good.length - 1) >> 1] + good[good.length >> 1]) / 2 : 0;
const edges = [...new Set([first, last, ...mine.flatMap(row => [row.start, row.end])])]
  .filter(t => t >= first && t <= last).sort((a, b) => a - b);
const model = {left: [], right: [], level: []};
for (let k = 0; k + 1 < edges.length; k++) {
  const inside = mine.find(row => row.start <= edges[k] && edges[k] < row.end);
  model.left.push(ms(edges[k]));
  model.right.push(ms(edges[k + 1]));
  model.level.push(middle + (inside ? inside.amplitude : 0));
}
levels.data = model;

const kind = facts.kinds[get(pixels, "kind")[pixel]];
curve.title.text = `y=${y} x=${x}: ${kind}`;
const lines = mine.map(row => {
  const since = row.start > first ? `from ${date(row.start)}` : "from before the first exposure";
  const until = row.end < last ? `until ${date(row.end)}` : "until after the last";
  return `Bad ${since} ${until}: amplitude ${row.amplitude.toPrecision(3)} DN/s, log-odds `
    + `${row.log_odds.toFixed(1)}, seen ${row.n_looks} times`
    + (row.dnu ? "." : "; pending: only the last exposure says so, in no mask.");
});
if (kind === "TELEGRAPH") lines.push("Switches: masked at every date.");
if (!lines.length) lines.push(facts.notes[kind]);
message.text = `${data.time.length} exposures with evidence. ` + lines.join("\n");
