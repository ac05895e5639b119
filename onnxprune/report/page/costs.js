/** A cost once so many channels of each group are removed: the sum that the allocation of a run is made by. */
function left(cost, removed) {
  const lengths = [...cost.lengths];
  for (const [length, group, step] of cost.slopes) lengths[length] -= step * removed[group];
  const products = cost.terms.filter((term) => counts(term, lengths, removed)).map((term) => product(term, lengths));
  return products.reduce((sum, one) => (cost.singles || one > 1 ? sum + one : sum), cost.fixed);
}

/** Whether a term counts: some do only once something is removed, or where a length is no multiple. */
function counts(term, lengths, removed) {
  const [length, multiple] = term.odd;
  if (term.odd.length && lengths[length] % multiple === 0) return false;
  return !term.causes.length || term.causes.some((group) => removed[group] > 0);
}

function product(term, lengths) {
  const rounded = term.axes.map((axis, i) => (term.blocks.length ? Math.ceil(lengths[axis] / term.blocks[i]) * term.blocks[i] : lengths[axis]));
  return rounded.reduce((whole, length) => whole * length, 1) * term.factor;
}

/** The damage of a group by its curve, between the points of which it is taken to be straight; null where none is known. */
function damageAt(curve, share) {
  let [before, low] = [0, 0];
  for (let i = 0; i < curve.shares.length; i++) {
    const [after, high] = [curve.shares[i], curve.damage[i]];
    if (high === null) continue;
    if (share <= after) return after === before ? high : low + ((high - low) * (share - before)) / (after - before);
    [before, low] = [after, high];
  }
  return share === 0 ? 0 : low || null;
}
