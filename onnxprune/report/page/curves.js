/** Damage curves as small multiples: all have the same axes, the damage on a logarithmic one. */
function curves(page) {
  const box = { left: 30, right: 4, top: 6, bottom: 16, width: 184, height: 96 };
  const names = distinct(page.curves.map((curve) => page.groups[curve.group].name), NARROW);
  return element("div", { class: "curves" }, ...page.curves.map((curve, i) => multiple(page, curve, names[i], box)));
}

function multiple(page, curve, name, box) {
  const group = page.groups[curve.group];
  const x = (share) => box.left + share * (box.width - box.left - box.right);
  const y = (damage) => box.height - box.bottom - level(damage) * (box.height - box.top - box.bottom);
  const known = curve.shares.map((share, i) => [share, curve.damage[i], curve.measured[i]]).filter((p) => p[1] !== null);
  const words = known.map(([share, damage]) => `${percent(damage)} at ${percent(share)}`).join(", ");
  const marks = [[1e-4, "0.01%"], [1e-2, "1%"], [1, "100%"]].flatMap(([damage, text]) => [
    drawing("line", { class: "axis", x1: x(0), x2: x(1), y1: y(damage), y2: y(damage) }),
    drawing("text", { x: box.left - 3, y: y(damage) + 3, "text-anchor": "end" }, text),
  ]);
  const feet = [0, 0.5, 1].map((share) =>
    drawing("text", { x: x(share), y: box.height - 4, "text-anchor": ["start", "middle", "end"][2 * share] }, `${100 * share}%`),
  );
  const path = known.map(([share, damage], i) => `${i ? "L" : "M"}${x(share).toFixed(1)} ${y(damage).toFixed(1)}`).join("");
  const dots = known.map(([share, damage, measured]) =>
    drawing("circle", { class: measured ? "dot" : "dot predicted", cx: x(share), cy: y(damage), r: 2.2 },
      drawing("title", {}, `${percent(share)} removed: ${percent(damage)}${measured ? "" : ", predicted"}`)),
  );
  const now = group.removed ? x(group.removed / group.channels) : null;
  return element(
    "figure",
    {},
    element("h3", { class: "name", title: printable(group.name) }, name),
    drawing(
      "svg",
      { viewBox: `0 0 ${box.width} ${box.height}`, role: "img", "aria-label": `${printable(group.name)}: damage ${words}` },
      ...marks,
      ...feet,
      now === null ? null : drawing("line", { class: "now", x1: now, x2: now, y1: box.top, y2: box.height - box.bottom }),
      drawing("path", { class: "line", d: path }),
      ...dots,
    ),
  );
}
