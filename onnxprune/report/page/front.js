/** Variants by cost and loss; those on the front are filled and joined. */
function front(page) {
  const box = { left: 44, right: 12, top: 10, bottom: 34, width: 560, height: 300 };
  const points = [...page.variants].sort((a, b) => a.cost - b.cost);
  const costs = ticks(0, Math.max(1, ...points.map((p) => p.cost)));
  const losses = ticks(Math.min(0, ...points.map((p) => p.loss)), Math.max(0, ...points.map((p) => p.loss)));
  const [most, low, high] = [costs.at(-1), losses[0], losses.at(-1)];
  const x = (cost) => box.left + (cost / most) * (box.width - box.left - box.right);
  const y = (loss) => box.height - box.bottom - ((loss - low) / (high - low)) * (box.height - box.top - box.bottom);
  const number = (loss) => (page.loss_in_percent ? `${(100 * loss).toFixed(1)}%` : Number(loss.toPrecision(3)).toString());
  const words = (p) => `${printable(p.name)}: ${percent(p.cost)} of the ${page.cost}, ${number(p.loss)} ${page.loss}${p.front ? ", on the front" : ""}`;
  const across = costs.flatMap((cost) => [
    drawing("line", { class: "axis", x1: x(cost), x2: x(cost), y1: box.top, y2: box.height - box.bottom }),
    drawing("text", { x: x(cost), y: box.height - 20, "text-anchor": "middle" }, `${Math.round(100 * cost)}%`),
  ]);
  const up = losses.flatMap((loss) => [
    drawing("line", { class: "axis", x1: box.left, x2: box.width - box.right, y1: y(loss), y2: y(loss) }),
    drawing("text", { x: box.left - 5, y: y(loss) + 3, "text-anchor": "end" }, number(loss)),
  ]);
  const best = points.filter((p) => p.front);
  const path = best.map((p, i) => `${i ? "L" : "M"}${x(p.cost).toFixed(1)} ${y(p.loss).toFixed(1)}`).join("");
  const dots = [...points.filter((p) => !p.front), ...best].map((p) =>
    drawing("circle", { class: p.front ? "dot" : "dot predicted", cx: x(p.cost), cy: y(p.loss), r: 4, tabindex: 0, role: "img", "aria-label": words(p) },
      drawing("title", {}, words(p))),
  );
  const labels = best.map((p) => {
    const [right, high] = [x(p.cost) > 0.75 * box.width, y(p.loss) < box.top + 14];
    const place = { x: x(p.cost) + (right ? -6 : 6), y: y(p.loss) + (high ? 14 : -6), "text-anchor": right ? "end" : "start" };
    return drawing("text", place, short(p.name, 24));
  });
  const foot = drawing("text", { x: box.width - box.right, y: box.height - 6, "text-anchor": "end" }, `share of the ${page.cost} that is left`);
  const about = `Across: share of the ${page.cost} that is left. Up: ${page.loss}. Filled points are on the front: no other variant is better in both.`;
  return [
    element("p", { class: "quiet" }, about),
    element("div", { class: "curves front" },
      drawing("svg", { viewBox: `0 0 ${box.width} ${box.height}`, role: "group", "aria-label": about },
        ...across, ...up, foot, drawing("path", { class: "line", d: path }), ...dots, ...labels)),
  ];
}

/** Three to six round numbers at equal distances, from the first at or below `low` to the last at or above `high`. */
function ticks(low, high) {
  const least = (high - low || 1) / 5;
  const power = 10 ** Math.floor(Math.log10(least));
  const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= least * (1 - 1e-9));
  const [first, last] = [Math.floor(low / step + 1e-9), Math.max(Math.ceil(high / step - 1e-9), Math.floor(low / step) + 2)];
  return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
}
