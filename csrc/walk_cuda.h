// How the CUDA kernels are launched on tensors with channels in dimension 1: what a tensor's memory
// looks like, and which of the walks (walk_device_cuda.h) goes over it.
#pragma once

#include <algorithm>

#include "walk_device_cuda.h"

namespace pass_transfer {
namespace walk {

struct Extent {
  int64_t batch, channels, positions;
  bool rows;                // channels lie together in memory
  at::MemoryFormat format;  // of what is made
  int64_t count() const { return batch * positions; }
  int64_t numel() const { return count() * channels; }
};

inline Extent extent_of(const Tensor& x) {
  int64_t positions = 1;
  for (int64_t d = 2; d < x.dim(); ++d) positions *= x.size(d);
  const bool rows = positions == 1 || (x.dim() == 4 && x.size(1) > 1 && x.stride(1) == 1) ||
                    layout_of(x) == Layout::Rows;
  return {x.size(0), x.size(1), positions, rows,
          x.dim() == 4 && rows && positions > 1 ? at::MemoryFormat::ChannelsLast
                                                : format_of(layout_of(x))};
}

// A tensor whose positions are evenly spaced in memory: itself, if its strides allow that.
inline Tensor even(const Tensor& t, const Extent& e) {
  if (t.dim() == 4 && t.stride(2) == 0 && t.size(2) > 1)
    return t.contiguous(e.format);  // expanded, as the gradient of a mean is
  if (t.dim() < 4 || t.size(2) == 1 || t.size(3) == 1 || t.stride(2) == t.size(3) * t.stride(3))
    return t.dim() < 4 ? t.contiguous() : t;
  return t.contiguous(e.format);
}

template <typename T>
View<T> view_of(const Tensor& t, int64_t first = 0) {
  const int64_t position = t.dim() < 3                      ? 1
                           : t.dim() == 4 && t.size(3) == 1 ? t.stride(2)
                                                            : t.stride(t.dim() - 1);
  return {static_cast<T*>(t.data_ptr()) + first * t.stride(1), t.stride(0), t.stride(1), position};
}

inline Tensor empty_as(const Extent& e, const Tensor& like, int64_t channels) {
  auto sizes = like.sizes().vec();
  sizes[1] = channels;
  return at::empty(sizes, like.options(),
                   like.dim() == 4 ? e.format : at::MemoryFormat::Contiguous);
}

inline cudaStream_t stream() { return c10::cuda::getCurrentCUDAStream(); }

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How many blocks of a kernel the device holds at once.
template <typename Kernel>
int64_t resident(Kernel kernel) {
  int device = 0, processors = 0, blocks = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  C10_CUDA_CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, THREADS, 0));
  return std::max<int64_t>(1, static_cast<int64_t>(processors) * blocks);
}

// From one row to the next, if the rows of all samples follow each other so; else 0.
template <typename T>
int64_t row_of(const View<T>& v, const Extent& e) {
  if (e.channels > 1 && v.channel != 1) return 0;
  if (e.positions == 1) return v.sample;
  return e.batch == 1 || v.sample == e.positions * v.position ? v.position : 0;
}

template <typename Body, int V>
Tensor run_rows(const Body& body, const Extent& e, const at::TensorOptions& options) {
  const int64_t columns = e.channels / V, splits = ceil_div(columns, ACROSS),
                across = ceil_div(columns, splits), lines = THREADS / across;
  const int64_t most = ceil_div(resident(rows_kernel<Body, V>), splits) * (Body::SUMS ? 1 : 4);
  const int64_t parts = std::max<int64_t>(1, std::min(most, ceil_div(e.count(), lines * LEAST)));
  Tensor partial = Body::SUMS ? at::empty({parts, 2, e.channels}, options) : Tensor();
  rows_kernel<Body, V>
      <<<dim3(static_cast<unsigned>(parts), static_cast<unsigned>(splits)), THREADS, 0, stream()>>>(
          body, e.count(), static_cast<int>(columns), static_cast<int>(across),
          Body::SUMS ? partial.data_ptr<typename Body::Sum>() : nullptr);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return partial;
}

template <typename Body, typename Index>
Tensor run_planes(const Body& body, const Extent& e, const at::TensorOptions& options) {
  const int64_t most = std::min<int64_t>(65535, ceil_div(PLANE_BLOCKS, e.channels));
  const int64_t parts = std::max<int64_t>(1, std::min(most, ceil_div(e.count(), THREADS * LEAST))),
                each = ceil_div(e.count(), parts);
  Tensor partial = Body::SUMS ? at::empty({parts, 2, e.channels}, options) : Tensor();
  planes_kernel<Body, Index>
      <<<dim3(static_cast<unsigned>(e.channels), static_cast<unsigned>(parts)), THREADS, 0,
         stream()>>>(body, static_cast<Index>(e.count()), static_cast<Index>(e.positions),
                     e.channels, static_cast<Index>(each),
                     Body::SUMS ? partial.data_ptr<typename Body::Sum>() : nullptr);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  return partial;
}

// Every element of a tensor of this extent, which is not empty.
// Returns partial sums (parts, 2, channels) if the body adds up.
template <typename Body>
Tensor every(Body body, const Extent& e, const Tensor& like) {
  using T = typename Body::Type;
  constexpr int V = 16 / sizeof(T);
  const auto options = like.options().dtype(c10::CppTypeToScalarType<typename Body::Sum>::value);
  bool rows = e.rows, packs = e.channels % V == 0;
  auto look = [&](View<T>& v) {
    const int64_t row = row_of(v, e);
    rows = rows && row > 0;
    packs = packs && row % V == 0 && reinterpret_cast<uintptr_t>(v.data) % 16 == 0;
  };
  for (int k = HasSource<Body>::value; k < Body::READS; ++k) look(body.reads[k]);
  if constexpr (HasSource<Body>::value) packs = packs && body.source.packs(V);
  for (int k = 0; k < Body::WRITES; ++k) look(body.writes[k]);
  if (rows) {
    for (int k = HasSource<Body>::value; k < Body::READS; ++k)
      body.reads[k].position = row_of(body.reads[k], e);
    for (int k = 0; k < Body::WRITES; ++k) body.writes[k].position = row_of(body.writes[k], e);
    return packs ? run_rows<Body, V>(body, e, options) : run_rows<Body, 1>(body, e, options);
  }
  return e.count() < (int64_t{1} << 31) ? run_planes<Body, uint32_t>(body, e, options)
                                        : run_planes<Body, int64_t>(body, e, options);
}

// body(channel, first sum, second sum) for every channel of partial sums.
template <typename Sum, typename Body>
void finish(const Tensor& partial, const Body& body) {
  const int64_t channels = partial.size(2);
  finish_kernel<Sum><<<static_cast<unsigned>(ceil_div(channels, 32)), 32 * LINES, 0, stream()>>>(
      partial.const_data_ptr<Sum>(), partial.size(0), channels, body);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace walk
}  // namespace pass_transfer
