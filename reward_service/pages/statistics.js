// Correlations and axis ticks. Pure functions.

/** Return Pearson's correlation of two equally long lists; null where one of them is constant or has under two values. */
export function pearson(xs, ys) {
  const [xMean, yMean] = [mean(xs), mean(ys)];
  let xy = 0, xx = 0, yy = 0;
  xs.forEach((x, index) => {
    const [dx, dy] = [x - xMean, ys[index] - yMean];
    xy += dx * dy;
    xx += dx * dx;
    yy += dy * dy;
  });
  return xx > 0 && yy > 0 ? xy / Math.sqrt(xx * yy) : null;
}

/** Return Spearman's rank correlation: Pearson's of the ranks, equal values sharing the mean of theirs. */
export const spearman = (xs, ys) => pearson(ranks(xs), ranks(ys));

/** Return the rank of each value, from 1; equal values share the mean of their ranks. */
export function ranks(values) {
  const order = values.map((_, index) => index).sort((a, b) => values[a] - values[b]);
  const result = new Array(values.length);
  for (let start = 0; start < order.length;) {
    let end = start;
    while (end < order.length && values[order[end]] === values[order[start]]) end += 1;
    for (let place = start; place < end; place += 1) result[order[place]] = (start + 1 + end) / 2;
    start = end;
  }
  return result;
}

/** Return the mean of a list. */
export const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Return the standard deviation of a list (that of a sample; 0 for a single value). */
export function deviation(values) {
  const centre = mean(values);
  const squares = values.reduce((sum, value) => sum + (value - centre) ** 2, 0);
  return values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : 0;
}

/** Return [low, high] of a list, without a spread argument limit. */
export function extent(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

/** Return about `wanted` round numbers that cover [low, high]; the first and the last lie at or outside of it. */
export function ticks([low, high], wanted = 5) {
  const span = high - low || Math.abs(high) || 1;
  const power = 10 ** Math.floor(Math.log10(span / wanted));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => span / size <= wanted);
  const [first, last] = [Math.floor(low / step), Math.max(Math.ceil(high / step), Math.floor(low / step) + 1)];
  return Array.from({length: last - first + 1}, (_, index) => (first + index) * step);
}
