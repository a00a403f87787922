// CUDA kernels of masked layers but for their convolutions: nothing here waits for the host, so
// that a step made of them can be captured in a graph. Sums are taken in two stages of a fixed
// shape, and are the same in every run.
#include "kernels.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>

namespace pass_transfer {

namespace {

constexpr int THREADS = 256;
constexpr int COLUMNS = 32;                 // channels side by side in a block, where they lie together in memory
constexpr int LINES = THREADS / COLUMNS;
constexpr int64_t BLOCKS = 1024;            // that keep a large GPU busy
constexpr int64_t LEAST = 2048;             // elements that are worth a block

// Element (n, c, p) of a tensor (batch, channels, positions) in memory.
template <typename T>
struct View {
  T* data;
  int64_t sample, channel, position;
  __device__ T& at(int64_t n, int64_t c, int64_t p) const { return data[n * sample + c * channel + p * position]; }
};

struct Extent {
  int64_t batch, channels, positions;
  bool rows;                // channels lie together in memory
  at::MemoryFormat format;  // of what is made
  int64_t count() const { return batch * positions; }
  int64_t numel() const { return count() * channels; }
};

Extent extent_of(const Tensor& x) {
  int64_t positions = 1;
  for (int64_t d = 2; d < x.dim(); ++d) positions *= x.size(d);
  const bool rows = positions == 1 || (x.dim() == 4 && x.size(1) > 1 && x.stride(1) == 1) || layout_of(x) == Layout::Rows;
  return {x.size(0), x.size(1), positions, rows, format_of(layout_of(x))};
}

// A tensor whose positions are evenly spaced: itself, if its strides allow that.
Tensor even(const Tensor& t, const Extent& e) {
  if (t.dim() == 4 && (t.size(2) == 1 || t.size(3) == 1 || t.stride(2) == t.size(3) * t.stride(3))) return t;
  return t.contiguous(t.dim() == 4 ? e.format : at::MemoryFormat::Contiguous);
}

template <typename T>
View<T> view_of(const Tensor& t, int64_t first = 0) {
  const int64_t position = t.dim() < 3 ? 1 : t.dim() == 4 && t.size(3) > 1 ? t.stride(3) : t.dim() == 4 ? t.stride(2) : t.stride(t.dim() - 1);
  return {static_cast<T*>(t.data_ptr()) + first * t.stride(1), t.stride(0), t.stride(1), position};
}

Tensor empty_as(const Extent& e, const Tensor& like, int64_t channels) {
  auto sizes = like.sizes().vec();
  sizes[1] = channels;
  return at::empty(sizes, like.options(), like.dim() == 4 ? e.format : at::MemoryFormat::Contiguous);
}

cudaStream_t stream() { return c10::cuda::getCurrentCUDAStream(); }

// ---- sums over batch and positions of two values of every channel

template <typename A, typename Body>
__global__ void __launch_bounds__(THREADS) reduce_planes(Body body, int64_t count, int64_t positions, int64_t channels, int64_t each, A* partial) {
  __shared__ A ones[THREADS / 32], twos[THREADS / 32];
  const int64_t c = blockIdx.x, first = blockIdx.y * each, last = min(count, first + each);
  A one = 0, two = 0;
  for (int64_t i = first + threadIdx.x; i < last; i += THREADS) body(i / positions, c, i % positions, one, two);
  for (int offset = 16; offset; offset >>= 1) {
    one += __shfl_xor_sync(0xffffffffu, one, offset);
    two += __shfl_xor_sync(0xffffffffu, two, offset);
  }
  if ((threadIdx.x & 31) == 0) {
    ones[threadIdx.x >> 5] = one;
    twos[threadIdx.x >> 5] = two;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < THREADS / 32; ++w) {
      one += ones[w];
      two += twos[w];
    }
    partial[(blockIdx.y * channels + c) * 2] = one;
    partial[(blockIdx.y * channels + c) * 2 + 1] = two;
  }
}

template <typename A, typename Body>
__global__ void __launch_bounds__(THREADS) reduce_rows(Body body, int64_t count, int64_t positions, int64_t channels, int64_t each, A* partial) {
  __shared__ A ones[LINES][COLUMNS], twos[LINES][COLUMNS];
  const int column = threadIdx.x % COLUMNS, line = threadIdx.x / COLUMNS;
  const int64_t c = blockIdx.x * COLUMNS + column, first = blockIdx.y * each, last = min(count, first + each);
  A one = 0, two = 0;
  if (c < channels)
    for (int64_t i = first + line; i < last; i += LINES) body(i / positions, c, i % positions, one, two);
  ones[line][column] = one;
  twos[line][column] = two;
  __syncthreads();
  if (line == 0 && c < channels) {
    for (int l = 1; l < LINES; ++l) {
      one += ones[l][column];
      two += twos[l][column];
    }
    partial[(blockIdx.y * channels + c) * 2] = one;
    partial[(blockIdx.y * channels + c) * 2 + 1] = two;
  }
}

// Partial sums (parts, channels, 2).
template <typename A, typename Body>
Tensor reduce(const Body& body, const Extent& e, const at::TensorOptions& options) {
  const int64_t across = e.rows ? (e.channels + COLUMNS - 1) / COLUMNS : e.channels, work = e.count() * (e.rows ? COLUMNS : 1);
  const int64_t parts = std::max<int64_t>(1, std::min({BLOCKS / across, work / LEAST, int64_t{65535}})), each = (e.count() + parts - 1) / parts;
  Tensor partial = at::empty({parts, e.channels, 2}, options);
  const dim3 grid(static_cast<unsigned>(across), static_cast<unsigned>(parts));
  if (e.rows)
    reduce_rows<A><<<grid, THREADS, 0, stream()>>>(body, e.count(), e.positions, e.channels, each, partial.data_ptr<A>());
  else
    reduce_planes<A><<<grid, THREADS, 0, stream()>>>(body, e.count(), e.positions, e.channels, each, partial.data_ptr<A>());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return partial;
}

// body(channel, sum of ones, sum of twos), a thread a channel.
template <typename A, typename Body>
__global__ void finish(const A* partial, int64_t parts, int64_t channels, Body body) {
  const int64_t c = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (c >= channels) return;
  double one = 0, two = 0;
  for (int64_t part = 0; part < parts; ++part) {
    one += partial[(part * channels + c) * 2];
    two += partial[(part * channels + c) * 2 + 1];
  }
  body(c, one, two);
}

template <typename A, typename Body>
void finish_all(const Tensor& partial, const Body& body) {
  const int64_t channels = partial.size(1);
  finish<A><<<static_cast<unsigned>((channels + THREADS - 1) / THREADS), THREADS, 0, stream()>>>(partial.const_data_ptr<A>(), partial.size(0), channels, body);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

// ---- one value of every element

template <typename Body>
__global__ void __launch_bounds__(THREADS) every(Body body, int64_t numel, int64_t channels, int64_t positions, bool rows) {
  for (int64_t i = blockIdx.x * static_cast<int64_t>(THREADS) + threadIdx.x; i < numel; i += static_cast<int64_t>(THREADS) * gridDim.x) {
    const int64_t c = rows ? i % channels : i / positions % channels, p = rows ? i / channels % positions : i % positions;
    body(i / (channels * positions), c, p);
  }
}

template <typename Body>
void for_every(const Body& body, const Extent& e, int64_t channels) {
  const int64_t numel = e.count() * channels;
  if (numel == 0) return;
  const int64_t blocks = std::min<int64_t>((numel + THREADS - 1) / THREADS, 8 * BLOCKS);
  every<<<static_cast<unsigned>(blocks), THREADS, 0, stream()>>>(body, numel, channels, e.positions, e.rows);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

// ---- bodies

template <typename T, typename A>
struct Spread {  // of values about their first
  View<T> y;
  __device__ void operator()(int64_t n, int64_t c, int64_t p, A& one, A& two) const {
    const A d = static_cast<A>(y.at(n, c, p)) - static_cast<A>(y.at(0, c, 0));
    one += d;
    two += d * d;
  }
};

template <typename T, typename A>
struct Statistics {
  View<T> y;
  A* mean;
  double *invstd, count, eps;
  __device__ void operator()(int64_t c, double one, double two) const {
    const double shift = one / count, variance = two / count - shift * shift;
    mean[c] = static_cast<A>(static_cast<double>(static_cast<A>(y.at(0, c, 0))) + shift);
    invstd[c] = 1.0 / sqrt((variance > 0 ? variance : 0) + eps);
  }
};

template <typename T, typename A>
struct Activate {
  View<T> y, residual, out;
  const A *mean, *scale, *shift;
  bool relu;
  __device__ void operator()(int64_t n, int64_t c, int64_t p) const {
    A value = (static_cast<A>(y.at(n, c, p)) - mean[c]) * scale[c] + shift[c];
    if (residual.data) value += static_cast<A>(residual.at(n, c, p));
    out.at(n, c, p) = static_cast<T>(relu && value < A(0) ? A(0) : value);
  }
};

template <typename T, typename A>
struct Passed {  // the gradient that ReLU lets through
  View<T> grad, a;
  bool relu;
  __device__ A operator()(int64_t n, int64_t c, int64_t p) const {
    return !relu || static_cast<A>(a.at(n, c, p)) > A(0) ? static_cast<A>(grad.at(n, c, p)) : A(0);
  }
};

template <typename T, typename A>
struct GradientSums {
  Passed<T, A> passed;
  View<T> y;
  const A* mean;
  __device__ void operator()(int64_t n, int64_t c, int64_t p, A& one, A& two) const {
    const A g = passed(n, c, p);
    one += g;
    two += g * (static_cast<A>(y.at(n, c, p)) - mean[c]);
  }
};

template <typename A>
struct Slopes {
  A *first, *second;
  const double* invstd;
  double count;
  __device__ void operator()(int64_t c, double one, double two) const {
    first[c] = static_cast<A>(one / count);
    second[c] = static_cast<A>(two / count * invstd[c] * invstd[c]);
  }
};

template <typename T, typename A>
struct Normalised {
  Passed<T, A> passed;
  View<T> y, out, residual;
  const A *mean, *first, *second;
  const double* scale;
  __device__ void operator()(int64_t n, int64_t c, int64_t p) const {
    const A g = passed(n, c, p);
    out.at(n, c, p) = static_cast<T>(static_cast<A>(scale[c]) * (g - first[c] - (static_cast<A>(y.at(n, c, p)) - mean[c]) * second[c]));
    if (residual.data) residual.at(n, c, p) = static_cast<T>(g);
  }
};

template <typename T, typename A>
struct Through {
  Passed<T, A> passed;
  View<T> out;
  __device__ void operator()(int64_t n, int64_t c, int64_t p) const { out.at(n, c, p) = static_cast<T>(passed(n, c, p)); }
};

template <typename T, typename A>
struct Product {
  View<T> x, out;
  const A* mask;
  __device__ void operator()(int64_t n, int64_t c, int64_t p) const { out.at(n, c, p) = static_cast<T>(static_cast<A>(x.at(n, c, p)) * mask[c]); }
};

template <typename T, typename A>
struct Dot {  // and, where `out` is there, mask * g in the same pass
  View<T> x, g, out;
  const A* mask;
  __device__ void operator()(int64_t n, int64_t c, int64_t p, A& one, A&) const {
    const A value = static_cast<A>(g.at(n, c, p));
    one += static_cast<A>(x.at(n, c, p)) * value;
    if (out.data) out.at(n, c, p) = static_cast<T>(value * mask[c]);
  }
};

template <typename A>
struct First {
  A* sums;
  __device__ void operator()(int64_t c, double one, double) const { sums[c] = static_cast<A>(one); }
};

template <typename T>
View<T> nothing() { return {nullptr, 0, 0, 0}; }

Tensor as_sums(const Tensor& t, const Tensor& x) { return t.to(sums_of(x)).contiguous(); }

std::tuple<Tensor, Tensor> batch_statistics(const Tensor& y_in, double eps) {
  const c10::cuda::CUDAGuard guard(y_in.device());
  const Extent e = extent_of(y_in);
  const Tensor y = even(y_in, e);
  const auto options = y.options().dtype(sums_of(y));
  Tensor mean = at::zeros({e.channels}, options), invstd = at::zeros({e.channels}, options.dtype(at::kDouble));
  if (e.numel() == 0) return {mean, invstd};
  PT_DISPATCH(y.scalar_type(), "batch_statistics", [&] {
    using A = typename Sums<scalar_t>::type;
    const View<scalar_t> v = view_of<scalar_t>(y);
    const Tensor partial = reduce<A>(Spread<scalar_t, A>{v}, e, options);
    finish_all<A>(partial, Statistics<scalar_t, A>{v, mean.data_ptr<A>(), invstd.data_ptr<double>(), static_cast<double>(e.count()), eps});
  });
  return {mean, invstd};
}

Tensor norm_act(const Tensor& y_in, int64_t first, int64_t count, const Affine& affine, const Maybe& residual_in, bool relu) {
  const c10::cuda::CUDAGuard guard(y_in.device());
  const Extent e = extent_of(y_in);
  const Tensor y = even(y_in, e), residual = residual_in ? even(*residual_in, e) : Tensor();
  Tensor out = empty_as(e, y, count);
  PT_DISPATCH(y.scalar_type(), "norm_act", [&] {
    using A = typename Sums<scalar_t>::type;
    for_every(Activate<scalar_t, A>{view_of<scalar_t>(y, first), residual.defined() ? view_of<scalar_t>(residual) : nothing<scalar_t>(), view_of<scalar_t>(out),
                                    affine.mean.const_data_ptr<A>() + first, affine.scale.const_data_ptr<A>() + first, affine.shift.const_data_ptr<A>() + first, relu},
              e, count);
  });
  return out;
}

std::tuple<Tensor, Tensor> norm_act_backward(const Tensor& grad_in, const Tensor& a_in, const Tensor& y_in, const Tensor& mean, const Tensor& invstd,
                                             const Tensor& scale, bool relu, bool wants_residual) {
  const c10::cuda::CUDAGuard guard(a_in.device());
  const Extent e = extent_of(a_in);
  const Tensor a = even(a_in, e), grad = even(grad_in, e);
  Tensor out = empty_as(e, a, e.channels);
  const bool normed = mean.defined();
  if (e.numel() == 0) return {out, wants_residual ? at::zeros_like(out) : Tensor()};
  Tensor residual = wants_residual && normed ? empty_as(e, a, e.channels) : Tensor();
  PT_DISPATCH(a.scalar_type(), "norm_act_backward", [&] {
    using A = typename Sums<scalar_t>::type;
    const Passed<scalar_t, A> passed{view_of<scalar_t>(grad), view_of<scalar_t>(a), relu};
    if (!normed) {
      for_every(Through<scalar_t, A>{passed, view_of<scalar_t>(out)}, e, e.channels);
      return;
    }
    const Tensor y = even(y_in, e);
    const View<scalar_t> v = view_of<scalar_t>(y);
    Tensor sums = at::empty({2, e.channels}, mean.options());
    A *first = sums.data_ptr<A>(), *second = first + e.channels;
    const Tensor partial = reduce<A>(GradientSums<scalar_t, A>{passed, v, mean.const_data_ptr<A>()}, e, mean.options());
    finish_all<A>(partial, Slopes<A>{first, second, invstd.const_data_ptr<double>(), static_cast<double>(e.count())});
    for_every(Normalised<scalar_t, A>{passed, v, view_of<scalar_t>(out), residual.defined() ? view_of<scalar_t>(residual) : nothing<scalar_t>(),
                                      mean.const_data_ptr<A>(), first, second, scale.const_data_ptr<double>()},
              e, e.channels);
  });
  return {out, wants_residual ? (normed ? residual : out) : Tensor()};
}

// Dots of x and g; with a mask, mask * g is written to `out` in the same pass.
Tensor dots(const Tensor& x_in, const Tensor& g_in, int64_t first, const Tensor& mask, Tensor* out) {
  const c10::cuda::CUDAGuard guard(x_in.device());
  const Extent e = extent_of(x_in);
  const Tensor x = even(x_in, e), g = even(g_in, e);
  Tensor sums = at::zeros({e.channels}, x.options().dtype(sums_of(x)));
  if (e.numel() == 0) return sums;
  PT_DISPATCH(x.scalar_type(), "channel_dots", [&] {
    using A = typename Sums<scalar_t>::type;
    const Dot<scalar_t, A> body{view_of<scalar_t>(x), view_of<scalar_t>(g, first), out ? view_of<scalar_t>(*out) : nothing<scalar_t>(),
                                out ? mask.const_data_ptr<A>() : nullptr};
    const Tensor partial = reduce<A>(body, e, sums.options());
    finish_all<A>(partial, First<A>{sums.data_ptr<A>()});
  });
  return sums;
}

Tensor channel_dots(const Tensor& x, const Tensor& g, int64_t first) { return dots(x, g, first, Tensor(), nullptr); }

Tensor mask_channels(const Tensor& x_in, const Tensor& mask_in) {
  const c10::cuda::CUDAGuard guard(x_in.device());
  const Extent e = extent_of(x_in);
  const Tensor x = even(x_in, e), mask = as_sums(mask_in, x);
  Tensor out = empty_as(e, x, e.channels);
  PT_DISPATCH(x.scalar_type(), "mask_channels", [&] {
    using A = typename Sums<scalar_t>::type;
    for_every(Product<scalar_t, A>{view_of<scalar_t>(x), view_of<scalar_t>(out), mask.const_data_ptr<A>()}, e, e.channels);
  });
  return out;
}

std::tuple<Tensor, Tensor> mask_channels_backward(const Tensor& grad, const Tensor& x, const Tensor& mask) {
  Tensor out = empty_as(extent_of(x), x, x.size(1));
  const Tensor sums = dots(x, grad, 0, as_sums(mask, x), &out);
  return {out, sums.to(mask.scalar_type())};
}

template <typename T>
__global__ void gather_kernel(const T* from, T* to, const int64_t* outs, const int64_t* ins, const float* mask, int64_t in_count, int64_t height, int64_t width,
                              int64_t so, int64_t si, int64_t sh, int64_t sw, bool rows, int64_t numel) {
  for (int64_t at = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; at < numel; at += static_cast<int64_t>(blockDim.x) * gridDim.x) {
    const int64_t area = height * width, inner = at % (in_count * area), o = at / (in_count * area);
    const int64_t i = rows ? inner % in_count : inner / area, k = rows ? inner / in_count : inner % area;
    const T value = from[(outs ? outs[o] : o) * so + (ins ? ins[i] : i) * si + (k / width) * sh + (k % width) * sw];
    to[at] = mask ? static_cast<T>(static_cast<float>(value) * mask[i]) : value;
  }
}

Tensor gather_weight(const Tensor& weight, const Selection& outs, const Selection& ins, const Tensor& mask, Layout layout) {
  const c10::cuda::CUDAGuard guard(weight.device());
  Tensor to = at::empty({outs.count, ins.count, weight.size(2), weight.size(3)}, weight.options(), format_of(layout));
  if (to.numel() == 0) return to;
  const int64_t blocks = std::min<int64_t>((to.numel() + THREADS - 1) / THREADS, 8 * BLOCKS);
  PT_DISPATCH(weight.scalar_type(), "gather_weight", [&] {
    gather_kernel<<<static_cast<unsigned>(blocks), THREADS, 0, stream()>>>(
        weight.const_data_ptr<scalar_t>(), to.data_ptr<scalar_t>(), outs.index.defined() ? outs.index.const_data_ptr<int64_t>() : nullptr,
        ins.index.defined() ? ins.index.const_data_ptr<int64_t>() : nullptr, mask.defined() ? mask.const_data_ptr<float>() : nullptr, ins.count, weight.size(2),
        weight.size(3), weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3), layout == Layout::Rows, to.numel());
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return to;
}

[[maybe_unused]] const bool set = [] {
  kernels_of(c10::DeviceType::CUDA) = {&mask_channels, &mask_channels_backward, &batch_statistics, &norm_act, &norm_act_backward, &channel_dots, &gather_weight};
  return true;
}();

}  // namespace

}  // namespace pass_transfer
