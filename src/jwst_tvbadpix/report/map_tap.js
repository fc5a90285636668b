// Names the pixel that was clicked: the nearest of those shown, else the one under the pointer.
const per_x = (map.x_range.end - map.x_range.start) / map.inner_width;
const per_y = (map.y_range.end - map.y_range.start) / map.inner_height;
let [best, y, x] = [facts.reach ** 2, Math.round(cb_obj.y), Math.round(cb_obj.x)];
for (const renderer of renderers) {
  if (!renderer.visible) continue;
  const source = renderer.data_source;
  const [ys, xs] = [source.get_column("y"), source.get_column("x")];
  const shown = renderer.view.filter.booleans;
  for (let i = 0; i < ys.length; i++) {
    if (shown && !shown[i]) continue;
    const distance = ((ys[i] - cb_obj.y) / per_y) ** 2 + ((xs[i] - cb_obj.x) / per_x) ** 2;
    if (distance < best) [best, y, x] = [distance, ys[i], xs[i]];
  }
}
input.value = `${y}, ${x}`;
