/** Weights with zeros: the pattern of the first rows and columns, and the sizes of what is not zero. */
function zeros(page) {
  const about = "Squares: the first rows and columns of a weight, filled where it is not zero. Bars: how many of the others there are, from the smallest on the left to the largest magnitude.";
  return [element("p", { class: "quiet" }, about), element("div", { class: "curves" }, ...page.zeros.map(zeroed))];
}

function zeroed(weight) {
  const words = `${percent(weight.zeros)} zero, ${printable(weight.pattern)}`;
  return element(
    "figure",
    {},
    element("h3", { class: "name", title: printable(weight.name) }, short(weight.name, 40)),
    element("div", { class: "zeroed" }, corner(weight, words), sizes(weight)),
    element("figcaption", { class: "quiet" }, `${weight.shape.join("×")}: ${words}`),
  );
}

/** One path of all that is not zero, so that a page of many weights stays small. */
function corner(weight, words) {
  const wide = Math.max(...weight.corner.map((row) => row.length), 1);
  const high = weight.corner.length;
  const path = weight.corner.flatMap((row, y) => [...row].map((digit, x) => (digit === "1" ? `M${x} ${y}h1v1h-1z` : ""))).join("");
  return drawing("svg", { viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": `${printable(weight.name)}: ${words}`, class: "corner" }, drawing("path", { d: path }));
}

function sizes(weight) {
  const most = Math.max(...weight.sizes, 1);
  const bars = weight.sizes.map((count, i) => drawing("rect", { x: 4 * i, y: 40 - (40 * count) / most, width: 3, height: (40 * count) / most }));
  return drawing("svg", { viewBox: `0 0 ${4 * weight.sizes.length} 40`, role: "img", "aria-label": `${printable(weight.name)}: magnitudes`, class: "sizes" }, ...bars);
}
