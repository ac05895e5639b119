/** The time of each layer before and after as two bars, and that of all other nodes together. */
function times(page) {
  const rows = page.layers.filter((layer) => layer.times).map((layer) => [layer.name, ...layer.times]);
  if (page.other_times.some((time) => time > 1e-4)) rows.unshift(["before the first layer", ...page.other_times]);
  const most = Math.max(...rows.flatMap((row) => row.slice(1)), 1e-12);
  const about = "Upper bar: before; lower bar: after. Of onnxruntime's profiler on one thread, which adds to every node: the times of whole runs are in the table above. A layer has the time of the nodes that follow it, up to the next layer, with which it may be fused.";
  const names = distinct(rows.map((row) => row[0]), NAME);
  return [element("p", { class: "quiet" }, about), element("div", { class: "times" }, ...rows.map((row, i) => timeRow(row, names[i], most)))];
}

function timeRow([name, before, after], shown, most) {
  const bar = (kind, time) => element("div", { class: `bar ${kind}`, style: `width: ${(100 * time) / most}%` });
  const words = `${duration(before)} → ${duration(after)}`;
  return element(
    "div",
    { class: "one" },
    element("span", { class: "name", title: printable(name) }, shown),
    element("span", { class: "pair", role: "img", "aria-label": `${printable(name)}: ${words}` }, bar("before", before), bar("after", after)),
    element("span", { class: "share" }, words),
  );
}

/** Milliseconds in a readable unit, with three digits. */
function duration(ms) {
  return ms < 1 ? `${Number((1000 * ms).toPrecision(3))} µs` : `${Number(ms.toPrecision(3))} ms`;
}
