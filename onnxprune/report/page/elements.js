/** Characters of a name beside a bar, and of one above a picture or beside a slider. */
const [NAME, NARROW] = [48, 32];

/** Makes an HTML element. Text is never parsed as markup. */
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  return fill(made, properties, children);
}

/** Makes an SVG element. */
function drawing(tag, properties = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

function fill(made, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Control characters, and those that turn the direction of what follows, as question marks. */
function printable(text) {
  return String(text).replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, "?");
}

/** A name for a narrow place, shortened in the middle. */
function short(name, limit = 60) {
  const shown = printable(name);
  if (shown.length <= limit) return shown;
  const half = Math.floor((limit - 1) / 2);
  return `${shown.slice(0, limit - 1 - half)}…${shown.slice(-half)}`;
}

/** Names for a narrow place that can be told apart: by the parts of paths that tell, else cut where they are alike. */
function distinct(names, limit) {
  const shown = names.map(printable);
  if (shown.every((name) => name.length <= limit)) return shown;
  const common = shown.reduce((start, name) => [...start].slice(0, [...start].findIndex((c, i) => c !== name[i]) >>> 0).join(""));
  const cut = common.replace(/[^./:_]*$/, "").length;
  const rest = shown.length > 1 && cut > 1 ? shown.map((name) => `…${name.slice(cut)}`) : shown;
  const cutBehind = (name) => (name.length > limit ? `${name.slice(0, limit - 1)}…` : name);
  const ways = [telling(shown, limit), rest.map((name) => short(name, limit)), rest.map(cutBehind)];
  return ways.sort((a, b) => new Set(b).size - new Set(a).size)[0];
}

/** Of each name the parts around the one that fewest other names have, the last of several. */
function telling(names, limit) {
  const parts = names.map((name) => name.split(/(?=[/;])/));
  const owners = new Map();
  parts.forEach((found) => new Set(found).forEach((part) => owners.set(part, (owners.get(part) ?? 0) + 1)));
  return parts.map((found, i) => {
    if (names[i].length <= limit) return names[i];
    let [first, last] = Array(2).fill(found.reduce((best, part, j) => (owners.get(part) <= owners.get(found[best]) ? j : best), 0));
    const shown = () => `${first ? "…" : ""}${found.slice(first, last + 1).join("")}${last < found.length - 1 ? "…" : ""}`;
    const fits = (part) => part !== undefined && shown().length + part.length <= limit;
    while (fits(found[last + 1]) || fits(found[first - 1])) fits(found[last + 1]) ? last++ : first--;
    return short(shown(), limit);
  });
}

/** A share in percent, with two digits at least. */
function percent(share) {
  if (share === null) return "not known";
  const value = 100 * share;
  if (value === 0 || value >= 9.95) return `${value.toFixed(0)}%`;
  return value < 1e-4 ? "less than 0.0001%" : `${Number(value.toPrecision(2))}%`;
}

/** A count with three digits. */
function amount(number) {
  const i = Math.min(4, Math.max(0, Math.floor(Math.log10(Math.max(number, 1)) / 3)));
  return `${Number((number / 1000 ** i).toPrecision(3))}${["", " k", " M", " G", " T"][i]}`;
}

/** Where a damage stands between 0 (0.01% and less) and 1 (all of the variance). */
function level(damage) {
  return Math.min(1, Math.max(0, 1 + Math.log10(Math.max(damage, 1e-4)) / 4));
}
