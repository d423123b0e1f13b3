// Ridge regression in closed form on the pixels under the strokes: dense_ctx's probe "ridge", in the page.
// Regresses one-hot classes; the bias is not penalised, the Gram matrix is divided by the number of pixels.

export const PENALTY = 1e-3;

/**
 * Coefficients [K][D + 1], the bias last.
 * features: [D, N] in one array, D planes of N pixels. labels: N class ids, 255 where nothing was drawn.
 */
export function fitRidge(features, dims, labels, classes, penalty = PENALTY) {
  const picked = [];
  labels.forEach((label, index) => { if (label !== 255) picked.push(index); });
  if (new Set(picked.map((index) => labels[index])).size < 2) return null;
  const side = dims + 1, plane = labels.length;
  const gram = new Float64Array(side * side), cross = new Float64Array(side * classes);
  const row = new Float64Array(side).fill(1);
  for (const index of picked) {
    for (let d = 0; d < dims; d++) row[d] = features[d * plane + index];
    for (let i = 0; i < side; i++) {
      for (let j = 0; j <= i; j++) gram[i * side + j] += row[i] * row[j];
      cross[i * classes + labels[index]] += row[i];
    }
  }
  for (let i = 0; i < side; i++) {
    for (let j = 0; j <= i; j++) gram[i * side + j] /= picked.length;
    for (let k = 0; k < classes; k++) cross[i * classes + k] /= picked.length;
    if (i < dims) gram[i * side + i] += penalty;
  }
  return solve(gram, cross, side, classes);
}

// Cholesky of the lower triangle, in place; then both substitutions for each class.
function solve(gram, cross, side, classes) {
  for (let i = 0; i < side; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = gram[i * side + j];
      for (let k = 0; k < j; k++) sum -= gram[i * side + k] * gram[j * side + k];
      if (i !== j) gram[i * side + j] = sum / gram[j * side + j];
      else if (sum > 0) gram[i * side + i] = Math.sqrt(sum);
      else throw new Error("the strokes' pixels do not determine a solution: draw on more of the image");
    }
  }
  return Array.from({ length: classes }, (_, k) => {
    const x = new Float64Array(side);
    for (let i = 0; i < side; i++) {
      let sum = cross[i * classes + k];
      for (let j = 0; j < i; j++) sum -= gram[i * side + j] * x[j];
      x[i] = sum / gram[i * side + i];
    }
    for (let i = side - 1; i >= 0; i--) {
      let sum = x[i];
      for (let j = i + 1; j < side; j++) sum -= gram[j * side + i] * x[j];
      x[i] = sum / gram[i * side + i];
    }
    return x;
  });
}

/** The class of each pixel: that of the largest score. Classes without a stroke are not chosen. */
export function predictRidge(features, dims, plane, coefficients, drawn) {
  const best = new Float32Array(plane).fill(-Infinity), labels = new Uint8Array(plane);
  const scores = new Float32Array(plane);
  coefficients.forEach((coefficient, k) => {
    if (!drawn.has(k)) return;
    scores.fill(coefficient[dims]);
    for (let d = 0; d < dims; d++) {
      const weight = coefficient[d], start = d * plane;
      for (let i = 0; i < plane; i++) scores[i] += weight * features[start + i];
    }
    for (let i = 0; i < plane; i++) if (scores[i] > best[i]) { best[i] = scores[i]; labels[i] = k; }
  });
  return labels;
}
