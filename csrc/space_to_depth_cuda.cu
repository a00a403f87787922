// CUDA kernels that rearrange an image for a stem's convolution, and the gradient to it back
// (space_to_depth.h).
#include "walk_cuda.h"

namespace pass_transfer {

namespace {

using namespace walk;

// Of an image (batch, C, height, width) with any strides,
// and of its deep form (batch, rows, columns, WIDE) in memory.
struct Sides {
  int height, width, rows, columns, above, left;
  int64_t sample, channel, line, position;
};

template <typename T, int C>
__global__ void __launch_bounds__(THREADS)
    space_to_depth_kernel(const T* image, T* deep, Sides s, int64_t count) {
  constexpr int WIDE = (4 * C + 7) / 8 * 8;
  for (int64_t at = blockIdx.x * static_cast<int64_t>(THREADS) + threadIdx.x; at < count;
       at += static_cast<int64_t>(THREADS) * gridDim.x) {
    const int64_t n = at / (s.rows * s.columns);
    const int p = static_cast<int>(at - n * (s.rows * s.columns)),
              top = 2 * (p / s.columns - s.above), left = 2 * (p % s.columns - s.left);
    Pack<T, WIDE> out;
#pragma unroll
    for (int i = 0; i < WIDE; ++i) {
      const int h = top + i / (2 * C), w = left + i / C % 2;
      const bool inside = i < 4 * C && h >= 0 && h < s.height && w >= 0 && w < s.width;
      out.at[i] = inside ? image[n * s.sample + i % C * s.channel + h * s.line + w * s.position]
                         : static_cast<T>(0.0f);
    }
    reinterpret_cast<Pack<T, WIDE>*>(deep)[at] = out;
  }
}

template <typename T, int C>
__global__ void __launch_bounds__(THREADS)
    depth_to_space_kernel(const T* deep, T* image, Sides s, int64_t count) {
  constexpr int WIDE = (4 * C + 7) / 8 * 8;
  for (int64_t at = blockIdx.x * static_cast<int64_t>(THREADS) + threadIdx.x; at < count;
       at += static_cast<int64_t>(THREADS) * gridDim.x) {
    const int64_t n = at / (s.height * s.width);
    const int p = static_cast<int>(at - n * (s.height * s.width)), h = p / s.width, w = p % s.width,
              row = h / 2 + s.above, column = w / 2 + s.left;
    const bool inside =
        row < s.rows && column < s.columns;  // the window need not reach the last ones
    const T* from =
        deep + ((n * s.rows + row) * s.columns + column) * WIDE + (h % 2 * 2 + w % 2) * C;
#pragma unroll
    for (int c = 0; c < C; ++c)
      image[n * s.sample + c * s.channel + h * s.line + w * s.position] =
          inside ? from[c] : static_cast<T>(0.0f);
  }
}

unsigned blocks_for(int64_t count) {
  return static_cast<unsigned>(std::min<int64_t>(ceil_div(count, THREADS), 16384));
}

Sides sides(const Tensor& image, const SpaceToDepth& to_depth, int64_t rows, int64_t columns) {
  return {static_cast<int>(image.size(2)),
          static_cast<int>(image.size(3)),
          static_cast<int>(rows),
          static_cast<int>(columns),
          static_cast<int>(to_depth.before[0]),
          static_cast<int>(to_depth.before[1]),
          image.stride(0),
          image.stride(1),
          image.stride(2),
          image.stride(3)};
}

// run(an integral constant of the number of channels).
template <typename Run>
void with_channels(int64_t channels, const Run& run) {
  switch (channels) {
    case 1:
      return run(std::integral_constant<int, 1>());
    case 2:
      return run(std::integral_constant<int, 2>());
    case 3:
      return run(std::integral_constant<int, 3>());
    default:
      return run(std::integral_constant<int, 4>());
  }
}

Tensor space_to_depth(const Tensor& x, const SpaceToDepth& to_depth, int64_t height,
                      int64_t width) {
  const c10::cuda::CUDAGuard guard(x.device());
  const int64_t rows = height + to_depth.taps[0] - 1, columns = width + to_depth.taps[1] - 1,
                count = x.size(0) * rows * columns;
  Tensor deep = at::empty({x.size(0), to_depth.channels, rows, columns}, x.options(),
                          at::MemoryFormat::ChannelsLast);
  const Sides s = sides(x, to_depth, rows, columns);
  AT_DISPATCH_REDUCED_FLOATING_TYPES(x.scalar_type(), "space_to_depth", [&] {
    with_channels(to_depth.ins, [&](auto channels) {
      constexpr int C = decltype(channels)::value;
      space_to_depth_kernel<scalar_t, C><<<blocks_for(count), THREADS, 0, stream()>>>(
          x.const_data_ptr<scalar_t>(), deep.data_ptr<scalar_t>(), s, count);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
  });
  return deep;
}

Tensor depth_to_space(const Tensor& deep, const SpaceToDepth& to_depth, int64_t height,
                      int64_t width, Layout layout) {
  const c10::cuda::CUDAGuard guard(deep.device());
  Tensor image =
      at::empty({deep.size(0), to_depth.ins, height, width}, deep.options(), format_of(layout));
  const int64_t count = deep.size(0) * height * width;
  const Sides s = sides(image, to_depth, deep.size(2), deep.size(3));
  AT_DISPATCH_REDUCED_FLOATING_TYPES(deep.scalar_type(), "depth_to_space", [&] {
    with_channels(to_depth.ins, [&](auto channels) {
      constexpr int C = decltype(channels)::value;
      depth_to_space_kernel<scalar_t, C><<<blocks_for(count), THREADS, 0, stream()>>>(
          deep.const_data_ptr<scalar_t>(), image.data_ptr<scalar_t>(), s, count);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
  });
  return image;
}

[[maybe_unused]] const bool set = [] {
  kernels_of(c10::DeviceType::CUDA).space_to_depth = &space_to_depth;
  kernels_of(c10::DeviceType::CUDA).depth_to_space = &depth_to_space;
  return true;
}();

}  // namespace

}  // namespace pass_transfer
