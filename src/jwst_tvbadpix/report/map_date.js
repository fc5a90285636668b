// Shows the pixels of the mask of a date; 0 = of any.
const mjd = slider.value ? facts.starts[slider.value - 1] : null;
let count = 0;
for (const renderer of renderers) {
  const {data_source: source, view} = renderer;
  const [start, end] = [source.get_column("start"), source.get_column("end")];
  const booleans = Array.from(start, (t, i) => mjd === null || (t <= mjd && mjd < end[i]));
  count += booleans.filter(Boolean).length;
  view.filter.booleans = booleans;
}
map.title.text = mjd === null
  ? facts.titles[0] : `${facts.titles[slider.value]}: ${count} pixels`;
