// CUDA kernels of normalisation, ReLU and maximum pooling in one: the activations that are pooled
// are never written down, nor is the gradient to them.
#include "gradient_cuda.h"

namespace pass_transfer {

namespace {

using namespace walk;

constexpr uint8_t NOWHERE = 255;

// A pooling with the sides of what it reads and of what it makes.
struct Windows {
  int kernel, stride, padding, height, width, pooled_height, pooled_width;
  int64_t positions() const { return static_cast<int64_t>(pooled_height) * pooled_width; }
};

Windows windows(const Pooling& pool, int64_t height, int64_t width) {
  return {static_cast<int>(pool.kernel),     static_cast<int>(pool.stride),
          static_cast<int>(pool.padding),    static_cast<int>(height),
          static_cast<int>(width),           static_cast<int>(pool.side(height)),
          static_cast<int>(pool.side(width))};
}

// What the forward kernel reads and writes.
template <typename T>
struct Pooled {
  using A = typename Compute<T>::A;
  View<T> y, out;
  View<uint8_t> places;  // data may be null
  const A* mean;
  const double* scale;
  const A* shift;
  A least;
  Windows g;
  int64_t rows;
};

// The maximum of V channels' activations over a window, and which of its elements that is.
// It is the first, if several are equal.
template <typename T, int V>
struct Maximum {
  using A = typename Compute<T>::A;
  A mean[V], scale[V], shift[V], least, best[V];
  Pack<uint8_t, V> place;

  __device__ __forceinline__ Maximum(const Pooled<T>& p, int64_t c) : least(p.least) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      mean[v] = p.mean[c + v];
      scale[v] = static_cast<A>(p.scale[c + v]);
      shift[v] = p.shift[c + v];
    }
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      best[v] = -INFINITY;
      place.at[v] = NOWHERE;
    }
  }

  __device__ __forceinline__ void take(const Pack<T, V>& pack, int tap) {
#pragma unroll
    for (int v = 0; v < V; ++v) {
      A value = (static_cast<A>(pack.at[v]) - mean[v]) * scale[v] + shift[v];
      value = static_cast<A>(static_cast<T>(value < least ? least : value));
      if (value > best[v] || value != value) {
        best[v] = value;
        place.at[v] = value > least || value != value ? static_cast<uint8_t>(tap) : NOWHERE;
      }
    }
  }
};

// Takes in the window whose corner is (top, left). KERNEL: its side, where it is known.
template <typename T, int V, int KERNEL>
__device__ __forceinline__ void take_window(Maximum<T, V>& maximum, const T* image,
                                            int64_t position, const Windows& g, int top, int left) {
  auto pack_at = [&](int h, int w) {
    return *reinterpret_cast<const Pack<T, V>*>(image +
                                                (static_cast<int64_t>(h) * g.width + w) * position);
  };
  if constexpr (KERNEL > 0) {
    for (int i = 0; i < KERNEL; ++i) {
      const int h = top + i;
      if (h < 0 || h >= g.height) continue;
      Pack<T, V> line_of[KERNEL];
#pragma unroll
      for (int j = 0; j < KERNEL; ++j)
        if (left + j >= 0 && left + j < g.width) line_of[j] = pack_at(h, left + j);
#pragma unroll
      for (int j = 0; j < KERNEL; ++j)
        if (left + j >= 0 && left + j < g.width) maximum.take(line_of[j], i * KERNEL + j);
    }
  } else {
    for (int i = 0; i < g.kernel; ++i)
      for (int j = 0; j < g.kernel; ++j) {
        const int h = top + i, w = left + j;
        if (h >= 0 && h < g.height && w >= 0 && w < g.width)
          maximum.take(pack_at(h, w), i * g.kernel + j);
      }
  }
}

template <typename T, int V, int KERNEL>
__global__ void __launch_bounds__(THREADS) pool_kernel(Pooled<T> p, int columns, int across) {
  const int lines = THREADS / across, line = threadIdx.x / across,
            column = blockIdx.y * across + threadIdx.x % across;
  if (line >= lines || column >= columns) return;
  const int64_t c = static_cast<int64_t>(column) * V;
  const Windows& g = p.g;
  const int each = g.pooled_height * g.pooled_width;
  Maximum<T, V> maximum(p, c);
  for (int64_t r = static_cast<int64_t>(blockIdx.x) * lines + line; r < p.rows;
       r += static_cast<int64_t>(gridDim.x) * lines) {
    const int64_t n = r / each;
    const int at = static_cast<int>(r - n * each), top = at / g.pooled_width * g.stride - g.padding,
              left = at % g.pooled_width * g.stride - g.padding;
    maximum.clear();
    take_window<T, V, KERNEL>(maximum, p.y.data + n * p.y.sample + c * p.y.channel, p.y.position, g,
                              top, left);
    Pack<T, V> result;
#pragma unroll
    for (int v = 0; v < V; ++v) result.at[v] = static_cast<T>(maximum.best[v]);
    *reinterpret_cast<Pack<T, V>*>(p.out.data + n * p.out.sample + c * p.out.channel +
                                   at * p.out.position) = result;
    if (p.places.data)
      *reinterpret_cast<Pack<uint8_t, V>*>(p.places.data + n * p.places.sample +
                                           c * p.places.channel + at * p.places.position) =
          maximum.place;
  }
}

// The gradient to what is pooled, made up from that of the maxima and their places. KERNEL, STRIDE,
// PADDING: the windows', where they are known; 0 where they are not.
template <typename T, int KERNEL, int STRIDE, int PADDING>
struct Unpooled {
  View<T> grad;
  View<uint8_t> places;
  Windows g;

  bool packs(int64_t v) const {
    return grad.channel == 1 && places.channel == 1 && grad.position % v == 0 &&
           grad.sample % v == 0 && places.position % v == 0 && places.sample % v == 0 &&
           reinterpret_cast<uintptr_t>(grad.data) % 16 == 0 &&
           reinterpret_cast<uintptr_t>(places.data) % 16 == 0;
  }

  template <int V>
  __device__ Pack<T, V> row(int64_t row, int64_t c) const {
    const unsigned positions = g.height * g.width,
                   n = static_cast<unsigned>(row) /
                       positions;  // norm_act_pool_backward sees to it that rows fit
    return around<V>(n, c, static_cast<int>(static_cast<unsigned>(row) - n * positions));
  }

  __device__ T at(int64_t n, int64_t c, int64_t p) const {
    return around<1>(n, c, static_cast<int>(p)).at[0];
  }

 private:
  template <int V>
  __device__ Pack<T, V> around(int64_t n, int64_t c, int p) const {
    using A = typename Compute<T>::A;
    const int kernel = KERNEL ? KERNEL : g.kernel, stride = KERNEL ? STRIDE : g.stride,
              padding = KERNEL ? PADDING : g.padding;
    const int y = static_cast<unsigned>(p) / static_cast<unsigned>(g.width), h = y + padding,
              w = p - y * g.width + padding;
    const uint8_t* marks = places.data + n * places.sample + c * places.channel;
    const T* values = grad.data + n * grad.sample + c * grad.channel;
    A sum[V] = {};
    auto add = [&](int i, int j) {  // what window (i, j) sends here
      const int tap = (h - i * stride) * kernel + w - j * stride;
      const int64_t position = static_cast<int64_t>(i) * g.pooled_width + j;
      const auto place =
          *reinterpret_cast<const Pack<uint8_t, V>*>(marks + position * places.position);
      const auto value = *reinterpret_cast<const Pack<T, V>*>(values + position * grad.position);
#pragma unroll
      for (int v = 0; v < V; ++v) sum[v] += place.at[v] == tap ? static_cast<A>(value.at[v]) : A(0);
    };
    const int bottom = h / stride,
              right = w / stride;  // the last windows that reach here, if they are there
    if constexpr (KERNEL > 0) {
      constexpr int REACH = (KERNEL - 1) / STRIDE + 1;  // windows that can reach a position, a side
#pragma unroll
      for (int up = REACH - 1; up >= 0; --up)
#pragma unroll
        for (int back = REACH - 1; back >= 0; --back) {
          const int i = bottom - up, j = right - back;
          if (i >= 0 && i < g.pooled_height && h - i * STRIDE < KERNEL && j >= 0 &&
              j < g.pooled_width && w - j * STRIDE < KERNEL)
            add(i, j);
        }
    } else {
      const int top = h < kernel ? 0 : (h - kernel) / stride + 1,
                left = w < kernel ? 0 : (w - kernel) / stride + 1;
      for (int i = top; i <= min(bottom, g.pooled_height - 1); ++i)
        for (int j = left; j <= min(right, g.pooled_width - 1); ++j) add(i, j);
    }
    Pack<T, V> found;
#pragma unroll
    for (int v = 0; v < V; ++v) found.at[v] = static_cast<T>(sum[v]);
    return found;
  }
};

template <typename T, typename Source>
struct UnpooledSums : GradientSums<T, Gate::Open, false> {
  Source source;
};

template <typename T, typename Source>
struct UnpooledNormalised : Normalised<T, Gate::Open> {
  Source source;
};

template <typename T, int V>
void pool(const Pooled<T>& p, int64_t count) {
  const int64_t columns = count / V, splits = ceil_div(columns, ACROSS),
                across = ceil_div(columns, splits), lines = THREADS / across;
  const auto kernel = p.g.kernel == 3 ? pool_kernel<T, V, 3> : pool_kernel<T, V, 0>;
  const int64_t most = std::min(ceil_div(4 * resident(kernel), splits), ceil_div(p.rows, lines));
  const dim3 blocks(static_cast<unsigned>(std::max<int64_t>(1, most)),
                    static_cast<unsigned>(splits));
  kernel<<<blocks, THREADS, 0, stream()>>>(p, static_cast<int>(columns), static_cast<int>(across));
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

std::tuple<Tensor, Tensor> norm_act_pool(const Tensor& y_in, int64_t first, int64_t count,
                                         const Affine& affine, bool relu, const Pooling& pooling,
                                         bool wants_places) {
  const c10::cuda::CUDAGuard guard(y_in.device());
  const Extent e = extent_of(y_in);
  const Tensor y = even(y_in, e);
  TORCH_CHECK_VALUE(e.positions < (int64_t{1} << 31), "y is too large");
  const Windows g = windows(pooling, y.size(2), y.size(3));
  Tensor out = at::empty({e.batch, count, g.pooled_height, g.pooled_width}, y.options(), e.format);
  const auto bytes = y.options().dtype(at::kByte);
  Tensor places = wants_places ? at::empty(out.sizes(), bytes, e.format) : at::empty({0}, bytes);
  if (out.numel() == 0) return {out, places};
  PT_DISPATCH(y.scalar_type(), "norm_act_pool", [&] {
    using A = typename Compute<scalar_t>::A;
    constexpr int V = 16 / sizeof(scalar_t);
    const Pooled<scalar_t> p{view_of<scalar_t>(y, first),
                             view_of<scalar_t>(out),
                             wants_places ? view_of<uint8_t>(places) : View<uint8_t>{},
                             affine.mean.const_data_ptr<A>() + first,
                             affine.scale.const_data_ptr<double>() + first,
                             affine.shift.const_data_ptr<A>() + first,
                             bound<A>(relu),
                             g,
                             e.batch * g.positions()};
    auto fits = [&](const auto& t, int64_t size) {
      return !t.data || (t.channel == 1 && t.position % V == 0 && t.sample % V == 0 &&
                         reinterpret_cast<uintptr_t>(t.data) % (V * size) == 0);
    };
    const int64_t size = sizeof(scalar_t);
    if (count % V == 0 && fits(p.y, size) && fits(p.out, size) && fits(p.places, 1))
      pool<scalar_t, V>(p, count);
    else
      pool<scalar_t, 1>(p, count);
  });
  return {out, places};
}

Tensor norm_act_pool_backward(const Tensor& grad_in, const Tensor& places_in, const Tensor& y_in,
                              const Affine& affine, const Pooling& pooling) {
  const c10::cuda::CUDAGuard guard(y_in.device());
  Extent e = extent_of(y_in);
  e.channels = grad_in.size(1);
  const Tensor y = even(y_in, e), grad = even(grad_in, e), places = even(places_in, e);
  Tensor out = empty_as(e, y, e.channels);
  if (out.numel() == 0) return out;
  if (grad.numel() == 0) return out.zero_();
  TORCH_CHECK_VALUE(e.count() < (int64_t{1} << 32), "y is too large");
  PT_DISPATCH(y.scalar_type(), "norm_act_pool_backward", [&] {
    using A = typename Compute<scalar_t>::A;
    using Sum = typename Compute<scalar_t>::Sum;
    const View<scalar_t> v = view_of<scalar_t>(y);
    const Windows g = windows(pooling, y.size(2), y.size(3));
    const A *mean = affine.mean.const_data_ptr<A>(), *shift = affine.shift.const_data_ptr<A>(),
            least = bound<A>(false);
    const double* scale = affine.scale.const_data_ptr<double>();
    const Tensor slopes = at::empty({2, e.channels}, affine.scale.options());
    double *first = slopes.data_ptr<double>(), *second = first + e.channels;
    auto walk_twice = [&](auto source) {
      using Source = decltype(source);
      const Tensor partial = every(
          UnpooledSums<scalar_t, Source>{{{{}, v}, {}, mean, shift, scale, least}, source}, e, y);
      finish<Sum>(partial, Slopes{first, second, static_cast<double>(e.count()),
                                  affine.invstd.const_data_ptr<double>()});
      every(
          UnpooledNormalised<scalar_t, Source>{
              {{{}, v}, {view_of<scalar_t>(out)}, mean, shift, scale, first, second, least},
              source},
          e, y);
    };
    const View<scalar_t> of_maxima = view_of<scalar_t>(grad);
    const View<uint8_t> marks = view_of<uint8_t>(places);
    if (g.kernel == 3 && g.stride == 2 && g.padding == 1)
      walk_twice(Unpooled<scalar_t, 3, 2, 1>{of_maxima, marks, g});
    else
      walk_twice(Unpooled<scalar_t, 0, 0, 0>{of_maxima, marks, g});
  });
  return out;
}

[[maybe_unused]] const bool set = [] {
  Kernels& kernels = kernels_of(c10::DeviceType::CUDA);
  kernels.norm_act_pool = &norm_act_pool;
  kernels.norm_act_pool_backward = &norm_act_pool_backward;
  return true;
}();

}  // namespace

}  // namespace pass_transfer
