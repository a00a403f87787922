// How the CUDA kernels walk tensors with channels in dimension 1: what a kernel does with a
// channel's elements (a body) is written once, for rows of channels (channels_last), which are read
// 16 bytes at a time, and for planes. Nothing here waits for the host. Sums are taken in two stages
// of a fixed shape, and are the same in every run on one device.
//
// A body has
//   Type, Sum          the elements' type and that of their sums
//   READS, WRITES      how many tensors it reads, `reads`, and writes, `writes`
//   SUMS               whether it adds up two values of every channel
//   Of, of(c)          what it needs to know of a channel, fetched once
//   skips(of)          whether nothing of this channel has to be written
//   operator()         (of, values read, values to write, first sum, second sum), for one element
// and it may have a `source`, which then makes up what would be read of the first tensor
// (pool_cuda.cu).
#pragma once

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <type_traits>
#include <utility>

#include "kernels.h"

namespace pass_transfer {
namespace walk {

constexpr int THREADS = 256;
constexpr int ACROSS = 32;    // packs of a row side by side in a block, at most
constexpr int LINES = 32;     // partial sums that the second stage adds up side by side
constexpr int64_t LEAST = 4;  // elements, or packs, that are worth a thread
constexpr int64_t PLANE_BLOCKS = 2048;

// Elements are computed with in A.
// In float32, sums over a channel are kept in double: they may cancel.
template <typename T>
struct Compute {
  using A = float;
  using Sum = float;
};
template <>
struct Compute<float> {
  using A = float;
  using Sum = double;
};
template <>
struct Compute<double> {
  using A = double;
  using Sum = double;
};

// Element (n, c, p) of a tensor (batch, channels, positions) in memory.
template <typename T>
struct View {
  T* data;
  int64_t sample, channel, position;
};

template <typename T, int V>
struct alignas(sizeof(T) * V) Pack {
  T at[V];
};

template <typename Body, typename = void>
struct HasSource : std::false_type {};
template <typename Body>
struct HasSource<Body, std::void_t<decltype(std::declval<Body>().source)>> : std::true_type {};

// A block of rows_kernel: how many packs a row has, and how many of them lie side by side in it.
struct Block {
  int columns, across;
};

// Adds up a block's lines, and writes the sums of its channels.
template <int V, typename Sum>
__device__ __forceinline__ void sum_lines(const Sum (&one)[V], const Sum (&two)[V], Block block,
                                          Sum* partial) {
  __shared__ Sum ones[THREADS * V], twos[THREADS * V];
  const int lines = THREADS / block.across, line = threadIdx.x / block.across,
            beside = threadIdx.x % block.across;
  const int width = block.across * V, channels = block.columns * V;
  if (line < lines)
#pragma unroll
    for (int v = 0; v < V; ++v) {
      ones[line * width + beside * V + v] = one[v];
      twos[line * width + beside * V + v] = two[v];
    }
  __syncthreads();
  for (int i = threadIdx.x; i < width; i += THREADS) {
    const int64_t c = static_cast<int64_t>(blockIdx.y) * width + i;
    if (c >= channels) continue;
    Sum sum = 0, other = 0;
    for (int l = 0; l < lines; ++l) {
      sum += ones[l * width + i];
      other += twos[l * width + i];
    }
    partial[(2 * static_cast<int64_t>(blockIdx.x)) * channels + c] = sum;
    partial[(2 * static_cast<int64_t>(blockIdx.x) + 1) * channels + c] = other;
  }
}

// Rows of `columns` packs of V channels.
// Blocks are `across` packs wide, and a thread stays in its column.
template <typename Body, int V>
__global__ void __launch_bounds__(THREADS)
    rows_kernel(Body body, int64_t rows, int columns, int across, typename Body::Sum* partial) {
  using T = typename Body::Type;
  using A = typename Compute<T>::A;
  using Sum = typename Body::Sum;
  constexpr int UNROLL = Body::READS == 1 ? 4 : 2;
  const int lines = THREADS / across, line = threadIdx.x / across, beside = threadIdx.x % across,
            column = blockIdx.y * across + beside;
  Sum one[V] = {}, two[V] = {};
  if (line < lines && column < columns) {
    typename Body::Of of[V];
    bool writes = false;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      of[v] = body.of(static_cast<int64_t>(column) * V + v);
      writes |= !body.skips(of[v]);
    }
    const int64_t step = static_cast<int64_t>(gridDim.x) * lines;
    for (int64_t first = static_cast<int64_t>(blockIdx.x) * lines + line; first < rows;
         first += UNROLL * step) {
      Pack<T, V> in[UNROLL][Body::READS];
#pragma unroll
      for (int u = 0; u < UNROLL; ++u)
        if (first + u * step < rows)
#pragma unroll
          for (int k = HasSource<Body>::value; k < Body::READS; ++k)
            in[u][k] = reinterpret_cast<const Pack<T, V>*>(
                body.reads[k].data + (first + u * step) * body.reads[k].position)[column];
      if constexpr (HasSource<Body>::value)
#pragma unroll
        for (int u = 0; u < UNROLL; ++u)
          if (first + u * step < rows)
            in[u][0] =
                body.source.template row<V>(first + u * step, static_cast<int64_t>(column) * V);
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) {
        if (first + u * step >= rows) break;
        Pack<T, V> out[Body::WRITES ? Body::WRITES : 1];
#pragma unroll
        for (int v = 0; v < V; ++v) {
          A values[Body::READS], results[Body::WRITES ? Body::WRITES : 1];
#pragma unroll
          for (int k = 0; k < Body::READS; ++k) values[k] = static_cast<A>(in[u][k].at[v]);
          body(of[v], values, results, one[v], two[v]);
          if constexpr (Body::WRITES > 0)
#pragma unroll
            for (int k = 0; k < Body::WRITES; ++k) out[k].at[v] = static_cast<T>(results[k]);
        }
        if constexpr (Body::WRITES > 0)
          if (writes)
#pragma unroll
            for (int k = 0; k < Body::WRITES; ++k)
              reinterpret_cast<Pack<T, V>*>(body.writes[k].data +
                                            (first + u * step) * body.writes[k].position)[column] =
                  out[k];
      }
    }
  }
  if constexpr (Body::SUMS) sum_lines<V>(one, two, Block{columns, across}, partial);
}

// Any strides: a block takes a part of one channel.
template <typename Body, typename Index>
__global__ void __launch_bounds__(THREADS)
    planes_kernel(Body body, Index count, Index positions, int64_t channels, Index each,
                  typename Body::Sum* partial) {
  using T = typename Body::Type;
  using A = typename Compute<T>::A;
  using Sum = typename Body::Sum;
  const int64_t c = blockIdx.x;
  const Index start = static_cast<Index>(blockIdx.y) * each, end = min(count, start + each);
  const typename Body::Of of = body.of(c);
  const bool writes = !body.skips(of);
  Sum one = 0, two = 0;
  for (Index i = start + threadIdx.x; i < end; i += THREADS) {
    const int64_t n = i / positions, p = i % positions;
    A values[Body::READS], results[Body::WRITES ? Body::WRITES : 1];
    if constexpr (HasSource<Body>::value) values[0] = static_cast<A>(body.source.at(n, c, p));
#pragma unroll
    for (int k = HasSource<Body>::value; k < Body::READS; ++k)
      values[k] =
          static_cast<A>(body.reads[k].data[n * body.reads[k].sample + c * body.reads[k].channel +
                                            p * body.reads[k].position]);
    body(of, values, results, one, two);
    if constexpr (Body::WRITES > 0)
      if (writes)
#pragma unroll
        for (int k = 0; k < Body::WRITES; ++k)
          body.writes[k].data[n * body.writes[k].sample + c * body.writes[k].channel +
                              p * body.writes[k].position] = static_cast<T>(results[k]);
  }
  if constexpr (Body::SUMS) {
    __shared__ Sum ones[THREADS / 32], twos[THREADS / 32];
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
      partial[(2 * static_cast<int64_t>(blockIdx.y)) * channels + c] = one;
      partial[(2 * static_cast<int64_t>(blockIdx.y) + 1) * channels + c] = two;
    }
  }
}

// body(channel, first sum, second sum) of all parts.
// A block adds up 32 channels, a warp a channel in the end.
template <typename Sum, typename Body>
__global__ void __launch_bounds__(32 * LINES)
    finish_kernel(const Sum* partial, int64_t parts, int64_t channels, Body body) {
  __shared__ double ones[LINES][33], twos[LINES][33];
  const int lane = threadIdx.x & 31, line = threadIdx.x >> 5;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * 32 + lane;
  double one = 0, two = 0;
  if (c < channels)
    for (int64_t part = line; part < parts; part += LINES) {
      one += static_cast<double>(partial[2 * part * channels + c]);
      two += static_cast<double>(partial[(2 * part + 1) * channels + c]);
    }
  ones[line][lane] = one;
  twos[line][lane] = two;
  __syncthreads();
  one = ones[lane][line];
  two = twos[lane][line];
  for (int offset = 16; offset; offset >>= 1) {
    one += __shfl_xor_sync(0xffffffffu, one, offset);
    two += __shfl_xor_sync(0xffffffffu, two, offset);
  }
  const int64_t mine = static_cast<int64_t>(blockIdx.x) * 32 + line;
  if (lane == 0 && mine < channels) body(mine, one, two);
}

}  // namespace walk
}  // namespace pass_transfer
