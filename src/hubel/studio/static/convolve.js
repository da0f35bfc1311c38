// Convolution and pooling of one image, as PyTorch computes them, and the kernels of the textbooks.
// An image is { planes: Float32Array(C·H·W), channels, height, width }; a kernel is C·k·k numbers.

/** ⌊(n + 2p − d(k − 1) − 1) / s⌋ + 1, below 1 where the window does not fit. */
export const size = (n, { kernel, stride, padding, dilation }) =>
  Math.floor((n + 2 * padding - dilation * (kernel - 1) - 1) / stride) + 1;

/** With a frame, and room behind the last pixel; in 64 bits, which JavaScript computes in. */
function padded({ planes, channels, height, width }, padding, fill, room = 0) {
  const [tall, wide] = [height + 2 * padding, width + 2 * padding];
  const made = new Float64Array(channels * tall * wide + room).fill(fill);
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < height; y++) {
      const row = (c * height + y) * width;
      made.set(planes.subarray(row, row + width), (c * tall + y + padding) * wide + padding);
    }
  }
  return { planes: made, height: tall, width: wide };
}

/** The channels' sum, where the kernel's slices are all the same: Σ w·x₁ + Σ w·x₂ = Σ w·(x₁ + x₂). */
function merged(image, weights) {
  const { planes, channels, height, width } = image;
  const [one, area] = [weights.length / channels, height * width];
  if (channels === 1 || weights.some((weight, at) => weight !== weights[at % one])) return [image, weights];
  const sum = planes.slice(0, area);
  for (let at = area; at < planes.length; at++) sum[at % area] += planes[at];
  return [{ planes: sum, channels: 1, height, width }, weights.slice(0, one)];
}

/** Σ w·x over the channels and the window, at every position: one plane. */
export function convolve(whole, every, settings) {
  const { kernel, stride, padding, dilation } = settings;
  const [image, weights] = merged(whole, every);
  const [height, width] = [size(image.height, settings), size(image.width, settings)];
  const from = padded(image, padding, 0, 6 * dilation);
  const planes = new Float64Array(height * width);
  const taps = []; // four numbers of a row of the kernel at a time
  for (let at = 0; at < weights.length; at += kernel) {
    const [c, u] = [Math.floor(at / kernel ** 2), Math.floor(at / kernel) % kernel];
    for (let v = 0; v < kernel; v += 4) {
      const four = [0, 1, 2, 3].map((n) => (v + n < kernel ? weights[at + v + n] : 0));
      if (four.some(Boolean)) taps.push([(c * from.height + u * dilation) * from.width + v * dilation, ...four]);
    }
  }
  for (let i = 0; i < height; i++) {
    for (const [start, w0, w1, w2, w3] of taps) {
      const [read, write, end] = [start + i * stride * from.width, i * width, (i + 1) * width];
      if (stride > 1) stroll(from.planes, read, stride, planes, write, 1, end, dilation, w0, w1, w2, w3);
      else for (let n = 0; n < dilation; n++) slide(from.planes, read + n, planes, write + n, end, dilation, w0, w1, w2, w3);
    }
  }
  return { planes, channels: 1, height, width };
}

/** Four weights, d apart, over a row: each output, `step` apart, adds what it reads. */
function stroll(source, read, stride, planes, write, step, end, d, w0, w1, w2, w3) {
  for (; write < end; write += step, read += stride) {
    planes[write] += w0 * source[read] + w1 * source[read + d] + w2 * source[read + 2 * d] + w3 * source[read + 3 * d];
  }
}

/** The same at stride 1, for outputs d apart: four of them share what they read, and so do the next four. */
function slide(source, read, planes, write, end, d, w0, w1, w2, w3) {
  let [a, b, c] = [source[read], source[read + d], source[read + 2 * d]];
  for (; write + 3 * d < end; write += 4 * d, read += 4 * d) {
    const e = source[read + 3 * d];
    const f = source[read + 4 * d];
    const g = source[read + 5 * d];
    const h = source[read + 6 * d];
    planes[write] += w0 * a + w1 * b + w2 * c + w3 * e;
    planes[write + d] += w0 * b + w1 * c + w2 * e + w3 * f;
    planes[write + 2 * d] += w0 * c + w1 * e + w2 * f + w3 * g;
    planes[write + 3 * d] += w0 * e + w1 * f + w2 * g + w3 * h;
    a = f;
    b = g;
    c = h;
  }
  stroll(source, read, d, planes, write, d, end, d, w0, w1, w2, w3);
}

/** Max or average of each channel's window; padding counts as −∞ or as 0, as in PyTorch. */
export function pool(image, kind, settings) {
  const { kernel, stride, padding, dilation } = settings;
  const [height, width] = [size(image.height, settings), size(image.width, settings)];
  const largest = kind === "max";
  const from = padded(image, padding, largest ? -Infinity : 0);
  const planes = new Float32Array(image.channels * height * width).fill(largest ? -Infinity : 0);
  for (let c = 0; c < image.channels; c++) {
    for (let at = 0; at < kernel ** 2; at++) {
      const [u, v] = [Math.floor(at / kernel), at % kernel];
      for (let i = 0; i < height; i++) {
        let read = (c * from.height + i * stride + u * dilation) * from.width + v * dilation;
        for (let write = (c * height + i) * width, end = write + width; write < end; write++, read += stride) {
          if (!largest) planes[write] += from.planes[read] / kernel ** 2;
          else if (from.planes[read] > planes[write]) planes[write] = from.planes[read];
        }
      }
    }
  }
  return { planes, channels: image.channels, height, width };
}

/** What the window sees of a channel at an output pixel: k·k numbers, null in the padding. */
export function patch({ planes, height, width }, channel, row, column, { kernel, stride, padding, dilation }) {
  return Array.from({ length: kernel ** 2 }, (_, at) => {
    const y = row * stride - padding + Math.floor(at / kernel) * dilation;
    const x = column * stride - padding + (at % kernel) * dilation;
    return y < 0 || x < 0 || y >= height || x >= width ? null : planes[(channel * height + y) * width + x];
  });
}

const times = (a, b) => Array.from({ length: a.length + b.length - 1 }, (_, n) => a.reduce((sum, x, i) => sum + x * (b[n - i] ?? 0), 0));
const binomial = (k) => Array.from({ length: k - 1 }).reduce((row) => times(row, [1, 1]), [1]);
const slope = (k) => (k < 2 ? [1] : times(binomial(k - 1), [-1, 1]));
const bend = (k) => (k < 3 ? slope(k) : times(slope(k - 1), [-1, 1]));
const centre = (k) => Array.from({ length: k }, (_, i) => Number(i === Math.floor((k - 1) / 2)));
const outer = (a, b) => a.flatMap((x) => b.map((y) => x * y));
const plus = (a, b, factor = 1) => a.map((x, i) => x + factor * b[i]);
const identity = (k) => outer(centre(k), centre(k));
const laplacian = (k) => plus(outer(centre(k), bend(k)), outer(bend(k), centre(k)));
const each = (k, value) => Array.from({ length: k * k }, (_, at) => value(Math.floor(at / k) - (k - 1) / 2, (at % k) - (k - 1) / 2));

function gabor(k, degrees) {
  const [angle, sigma, length] = [(degrees * Math.PI) / 180, k / 5, Math.max(2, k / 2)];
  const wave = each(k, (y, x) => {
    const along = x * Math.cos(angle) + y * Math.sin(angle);
    return Math.exp(-(x * x + y * y) / (2 * sigma * sigma)) * Math.cos((2 * Math.PI * along) / length);
  });
  const envelope = each(k, (y, x) => Math.exp(-(x * x + y * y) / (2 * sigma * sigma)));
  const share = wave.reduce((a, b) => a + b) / envelope.reduce((a, b) => a + b); // so that flat areas answer 0
  return k < 2 ? [1] : wave.map((value, at) => Math.round(1000 * (value - share * envelope[at])) / 1000);
}

/** Each of k·k numbers; for k = 3 as in the textbooks, for other sizes what they become there. */
export const KERNELS = {
  identity,
  "box blur": (k) => each(k, () => 1 / (k * k)),
  "Gaussian blur": (k) => outer(binomial(k), binomial(k)).map((x) => x / 4 ** (k - 1)),
  sharpen: (k) => plus(identity(k), laplacian(k), -1),
  edge: (k) => plus(identity(k).map((x) => x * k * k), each(k, () => 1), -1),
  "Sobel x": (k) => outer(binomial(k), slope(k)),
  "Sobel y": (k) => outer(slope(k), binomial(k)),
  Laplacian: laplacian,
  emboss: (k) => plus(identity(k), each(k, (y, x) => y + x)),
  Gabor: gabor,
};

/** The same kernel in another size: its middle, or zeros around it. */
export function resized(weights, channels, from, to) {
  const shift = Math.floor((to - 1) / 2) - Math.floor((from - 1) / 2);
  return Array.from({ length: channels * to * to }, (_, at) => {
    const [c, u, v] = [Math.floor(at / to ** 2), (Math.floor(at / to) % to) - shift, (at % to) - shift];
    return u < 0 || v < 0 || u >= from || v >= from ? 0 : weights[(c * from + u) * from + v];
  });
}
