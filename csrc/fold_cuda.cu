// CUDA kernels that fold an image for a stem's convolution, and unfold the gradient to it (fold.h).
#include "walk_cuda.h"

namespace pass_transfer {

namespace {

using namespace walk;

// Of an image (batch, C, height, width) with any strides, or of its folded form (batch, rows, columns, WIDE) in memory.
struct Sides {
  int height, width, rows, columns, above, left;
  int64_t sample, channel, line, position;
};

template <typename T, int C>
__global__ void __launch_bounds__(THREADS) fold_kernel(const T* image, T* folded, Sides s, int64_t count) {
  constexpr int WIDE = (4 * C + 7) / 8 * 8;
  for (int64_t at = blockIdx.x * static_cast<int64_t>(THREADS) + threadIdx.x; at < count; at += static_cast<int64_t>(THREADS) * gridDim.x) {
    const int64_t n = at / (s.rows * s.columns);
    const int p = static_cast<int>(at - n * (s.rows * s.columns)), top = 2 * (p / s.columns - s.above), left = 2 * (p % s.columns - s.left);
    Pack<T, WIDE> out;
#pragma unroll
    for (int i = 0; i < WIDE; ++i) {
      const int h = top + i / (2 * C), w = left + i / C % 2;
      const bool inside = i < 4 * C && h >= 0 && h < s.height && w >= 0 && w < s.width;
      out.at[i] = inside ? image[n * s.sample + i % C * s.channel + h * s.line + w * s.position] : static_cast<T>(0.0f);
    }
    reinterpret_cast<Pack<T, WIDE>*>(folded)[at] = out;
  }
}

template <typename T, int C>
__global__ void __launch_bounds__(THREADS) unfold_kernel(const T* folded, T* image, Sides s, int64_t count) {
  constexpr int WIDE = (4 * C + 7) / 8 * 8;
  for (int64_t at = blockIdx.x * static_cast<int64_t>(THREADS) + threadIdx.x; at < count; at += static_cast<int64_t>(THREADS) * gridDim.x) {
    const int64_t n = at / (s.height * s.width);
    const int p = static_cast<int>(at - n * (s.height * s.width)), h = p / s.width, w = p % s.width, row = h / 2 + s.above, column = w / 2 + s.left;
    const bool inside = row < s.rows && column < s.columns;  // the window need not reach the last ones
    const T* from = folded + ((n * s.rows + row) * s.columns + column) * WIDE + (h % 2 * 2 + w % 2) * C;
#pragma unroll
    for (int c = 0; c < C; ++c) image[n * s.sample + c * s.channel + h * s.line + w * s.position] = inside ? from[c] : static_cast<T>(0.0f);
  }
}

unsigned blocks_for(int64_t count) { return static_cast<unsigned>(std::min<int64_t>(ceil_div(count, THREADS), 16384)); }

Sides sides(const Tensor& image, const Fold& fold, int64_t rows, int64_t columns) {
  return {static_cast<int>(image.size(2)), static_cast<int>(image.size(3)), static_cast<int>(rows), static_cast<int>(columns), static_cast<int>(fold.before[0]),
          static_cast<int>(fold.before[1]), image.stride(0), image.stride(1), image.stride(2), image.stride(3)};
}

// run(an integral constant of the number of channels).
template <typename Run>
void with_channels(int64_t channels, const Run& run) {
  switch (channels) {
    case 1: return run(std::integral_constant<int, 1>());
    case 2: return run(std::integral_constant<int, 2>());
    case 3: return run(std::integral_constant<int, 3>());
    default: return run(std::integral_constant<int, 4>());
  }
}

Tensor fold_image(const Tensor& x, const Fold& fold, int64_t height, int64_t width) {
  const c10::cuda::CUDAGuard guard(x.device());
  const int64_t rows = height + fold.taps[0] - 1, columns = width + fold.taps[1] - 1, count = x.size(0) * rows * columns;
  Tensor folded = at::empty({x.size(0), fold.channels, rows, columns}, x.options(), at::MemoryFormat::ChannelsLast);
  const Sides s = sides(x, fold, rows, columns);
  AT_DISPATCH_REDUCED_FLOATING_TYPES(x.scalar_type(), "fold_image", [&] {
    with_channels(fold.ins, [&](auto channels) {
      constexpr int C = decltype(channels)::value;
      fold_kernel<scalar_t, C><<<blocks_for(count), THREADS, 0, stream()>>>(x.const_data_ptr<scalar_t>(), folded.data_ptr<scalar_t>(), s, count);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
  });
  return folded;
}

Tensor unfold_image(const Tensor& folded, const Fold& fold, int64_t height, int64_t width, Layout layout) {
  const c10::cuda::CUDAGuard guard(folded.device());
  Tensor image = at::empty({folded.size(0), fold.ins, height, width}, folded.options(), format_of(layout));
  const int64_t count = folded.size(0) * height * width;
  const Sides s = sides(image, fold, folded.size(2), folded.size(3));
  AT_DISPATCH_REDUCED_FLOATING_TYPES(folded.scalar_type(), "unfold_image", [&] {
    with_channels(fold.ins, [&](auto channels) {
      constexpr int C = decltype(channels)::value;
      unfold_kernel<scalar_t, C><<<blocks_for(count), THREADS, 0, stream()>>>(folded.const_data_ptr<scalar_t>(), image.data_ptr<scalar_t>(), s, count);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
  });
  return image;
}

[[maybe_unused]] const bool set = [] {
  kernels_of(c10::DeviceType::CUDA).fold_image = &fold_image;
  kernels_of(c10::DeviceType::CUDA).unfold_image = &unfold_image;
  return true;
}();

}  // namespace

}  // namespace pass_transfer
