// Global top-k in one launch of one block.
// Mask, threshold, counts and index lists stay on the device.
#include "common.h"
#include "radix.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <cmath>
#include <limits>

namespace pass_transfer {

namespace {

constexpr int THREADS = 1024;
constexpr int WARPS = THREADS / 32;
constexpr int RADIX = 256;

// Sum over a warp, in every lane.
__device__ inline int64_t warp_sum(int64_t value) {
  for (int offset = 16; offset; offset >>= 1) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// Marks the `count` best of a layer with one warp.
// It searches for the threshold bit by bit, then takes ties by index.
template <typename T, typename Key>
__device__ void select_in_warp(const T* scores, uint8_t* chosen, int64_t width, int64_t count) {
  const int lane = threadIdx.x & 31;
  if (count <= 0) return;
  Key threshold = 0;  // the largest key that at least `count` scores reach
  for (int bit = sizeof(Key) * 8 - 1; bit >= 0; --bit) {
    const Key trial = threshold | (Key(1) << bit);
    int64_t reached = 0;
    for (int64_t i = lane; i < width; i += 32) reached += key_of(scores[i]) >= trial;
    if (warp_sum(reached) >= count) threshold = trial;
  }
  int64_t above = 0;
  for (int64_t i = lane; i < width; i += 32) above += key_of(scores[i]) > threshold;
  int64_t ties = count - warp_sum(above);
  for (int64_t base = 0; base < width; base += 32) {
    const int64_t i = base + lane;
    const Key key = i < width ? key_of(scores[i]) : Key(0);
    const bool equal = i < width && key == threshold;
    const unsigned equals = __ballot_sync(0xffffffffu, equal);
    const bool taken = equal && __popc(equals & ((1u << lane) - 1)) < ties;
    if (i < width && (key > threshold || taken)) chosen[i] = 1;
    ties -= min(ties, static_cast<int64_t>(__popc(equals)));
  }
}

// Sum over the lower threads of the block, and the total.
__device__ int64_t exclusive_scan(int64_t value, int64_t* of_warps, int64_t* total) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  int64_t inclusive = value;
  for (int offset = 1; offset < 32; offset <<= 1) {
    const int64_t other = __shfl_up_sync(0xffffffffu, inclusive, offset);
    if (lane >= offset) inclusive += other;
  }
  if (lane == 31) of_warps[warp] = inclusive;
  __syncthreads();
  int64_t before = 0, all = 0;
  for (int w = 0; w < WARPS; ++w) {
    before += w < warp ? of_warps[w] : 0;
    all += of_warps[w];
  }
  __syncthreads();
  *total = all;
  return before + inclusive - value;
}

constexpr unsigned NOT_FINITE = 1, TORN = 2;

// What the kernel reads and writes. `chosen` (n,) is scratch memory.
template <typename T>
struct TopK {
  const T* scores;
  const int64_t *offsets, *floors;
  int64_t layers, n, k;
  uint8_t* chosen;
  T *mask, *threshold;
  int64_t *kept, *order;
};

// What the block's threads share.
template <typename T, typename Key>
struct Shared {
  unsigned histogram[RADIX];
  int64_t of_warps[WARPS];
  Key prefix;    // the threshold, as far as it is known
  int64_t left;  // how many are still to be taken
  unsigned flags;
  T lowest[WARPS];
};

// What is wrong with the values that this thread looks at; clears `chosen`, adds up the floors.
template <typename T>
__device__ unsigned look(const TopK<T>& a, int64_t* floor_sum) {
  unsigned found = 0;
  for (int64_t i = threadIdx.x; i < a.n; i += THREADS) {
    a.chosen[i] = 0;
    if (!isfinite(a.scores[i])) found |= NOT_FINITE;
  }
  *floor_sum = 0;
  for (int64_t l = 0; l < a.layers; ++l) {
    const int64_t width = a.offsets[l + 1] - a.offsets[l];
    *floor_sum += a.floors[l];
    if (a.offsets[l] > a.offsets[l + 1] || a.floors[l] < 0 || a.floors[l] > width) found |= TORN;
  }
  if (a.offsets[0] != 0 || a.offsets[a.layers] != a.n || *floor_sum > a.k) found |= TORN;
  return found;
}

// Where offsets, floors and k do not belong together, nothing is kept.
template <typename T>
__device__ void keep_nothing(const TopK<T>& a) {
  for (int64_t i = threadIdx.x; i < a.n; i += THREADS) {
    a.mask[i] = static_cast<T>(0.0f);
    a.order[i] = 0;
  }
  for (int64_t l = threadIdx.x; l < a.layers; l += THREADS) a.kept[l] = 0;
  if (threadIdx.x == 0) *a.threshold = static_cast<T>(-INFINITY);
}

// The threshold of what is not chosen yet, eight bits at a time. Then `prefix` is the threshold and
// `left` the number of ties to take, from the lowest index on.
template <typename T, typename Key>
__device__ void find_threshold(const TopK<T>& a, Shared<T, Key>& s) {
  for (int shift = sizeof(Key) * 8 - 8; shift >= 0; shift -= 8) {
    for (int i = threadIdx.x; i < RADIX; i += THREADS) s.histogram[i] = 0;
    __syncthreads();
    const Key high =
        shift + 8 < static_cast<int>(sizeof(Key) * 8) ? ~Key(0) << (shift + 8) : Key(0);
    for (int64_t i = threadIdx.x; i < a.n; i += THREADS) {
      const Key key = key_of(a.scores[i]);
      if (!a.chosen[i] && (key & high) == s.prefix)
        atomicAdd(&s.histogram[(key >> shift) & (RADIX - 1)], 1u);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      int digit = RADIX - 1;
      while (digit > 0 && static_cast<int64_t>(s.histogram[digit]) < s.left)
        s.left -= s.histogram[digit--];
      s.prefix |= static_cast<Key>(digit) << shift;
    }
    __syncthreads();
  }
}

// Chooses what lies above the threshold, and the first of the ties.
template <typename T, typename Key>
__device__ void choose(const TopK<T>& a, Shared<T, Key>& s) {
  const int64_t each = (a.n + THREADS - 1) / THREADS;
  const int64_t first = min(a.n, threadIdx.x * each), last = min(a.n, first + each);
  int64_t ties = 0, all = 0;
  for (int64_t i = first; i < last; ++i) ties += !a.chosen[i] && key_of(a.scores[i]) == s.prefix;
  int64_t before = exclusive_scan(ties, s.of_warps, &all);
  for (int64_t i = first; i < last; ++i) {
    if (a.chosen[i]) continue;
    const Key key = key_of(a.scores[i]);
    if (key > s.prefix || (key == s.prefix && before++ < s.left)) a.chosen[i] = 1;
  }
}

// A layer's mask, count, and list, by one warp: kept channels, then the others, in order. Returns
// the lowest kept score that this lane saw, or `least`.
template <typename T>
__device__ T list_layer(const TopK<T>& a, int64_t l, T least) {
  const int lane = threadIdx.x & 31;
  const int64_t start = a.offsets[l], width = a.offsets[l + 1] - start;
  int64_t count = 0;
  for (int64_t i = lane; i < width; i += 32) count += a.chosen[start + i];
  count = warp_sum(count);
  int64_t ones = 0, zeros = count;
  for (int64_t base = 0; base < width; base += 32) {
    const int64_t i = base + lane;
    const bool inside = i < width, one = inside && a.chosen[start + i];
    const unsigned votes = __ballot_sync(0xffffffffu, one);
    const unsigned present = __ballot_sync(0xffffffffu, inside), below = (1u << lane) - 1;
    if (inside) {
      const int64_t place =
          one ? ones + __popc(votes & below) : zeros + __popc(~votes & present & below);
      a.order[start + place] = i;
      a.mask[start + i] = static_cast<T>(one ? 1.0f : 0.0f);
      if (one && a.scores[start + i] < least) least = a.scores[start + i];
    }
    ones += __popc(votes);
    zeros += __popc(~votes & present);
  }
  if (lane == 0) a.kept[l] = count;
  return least;
}

// Writes the lowest of all threads' values, or NaN where a score is not finite.
template <typename T, typename Key>
__device__ void write_threshold(const TopK<T>& a, Shared<T, Key>& s, T least) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (int offset = 16; offset; offset >>= 1) {
    const T other = __shfl_xor_sync(0xffffffffu, least, offset);
    least = other < least ? other : least;
  }
  if (lane == 0) s.lowest[warp] = least;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int w = 1; w < WARPS; ++w) least = s.lowest[w] < least ? s.lowest[w] : least;
    *a.threshold = s.flags & NOT_FINITE ? static_cast<T>(NAN) : least;
  }
}

// One block. `threshold` becomes NaN where a score is not finite; where offsets, floors and k do
// not belong together it becomes -infinity, and nothing is kept.
template <typename T, typename Key>
__global__ void __launch_bounds__(THREADS) topk_kernel(TopK<T> a) {
  __shared__ Shared<T, Key> s;
  const int thread = threadIdx.x, warp = thread >> 5;
  if (thread == 0) s.flags = 0;
  __syncthreads();
  int64_t floor_sum = 0;
  const unsigned found = look(a, &floor_sum);
  if (found) atomicOr(&s.flags, found);
  __syncthreads();
  if (s.flags & TORN) {
    keep_nothing(a);
    return;
  }
  // Every layer's floor, a warp a layer.
  for (int64_t l = warp; l < a.layers; l += WARPS) {
    const int64_t start = a.offsets[l];
    select_in_warp<T, Key>(a.scores + start, a.chosen + start, a.offsets[l + 1] - start,
                           a.floors[l]);
  }
  if (thread == 0) {
    s.prefix = 0;
    s.left = a.k - floor_sum;
  }
  __syncthreads();
  if (s.left > 0) {
    find_threshold(a, s);
    choose(a, s);
  }
  __syncthreads();
  T least = static_cast<T>(INFINITY);
  for (int64_t l = warp; l < a.layers; l += WARPS) least = list_layer(a, l, least);
  write_threshold(a, s, least);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> global_topk_mask_cuda(const Tensor& scores_in,
                                                                 const Tensor& offsets, int64_t k,
                                                                 const Tensor& floors) {
  check_topk(scores_in, offsets, floors);
  const c10::cuda::CUDAGuard guard(scores_in.device());
  const int64_t n = scores_in.numel(), layers = floors.numel();
  TORCH_CHECK_VALUE(0 <= k && k <= n, "cannot keep ", k, " of ", n, " channels");
  const bool wide = scores_in.scalar_type() == at::kDouble;
  const Tensor scores = scores_in.to(wide ? at::kDouble : at::kFloat).contiguous(),
               o = offsets.contiguous(), f = floors.contiguous();
  Tensor mask = at::empty({n}, scores.options()), threshold = at::empty({}, scores.options());
  Tensor kept = at::empty({layers}, o.options()), order = at::empty({n}, o.options()),
         chosen = at::empty({n}, scores.options().dtype(at::kByte));
  auto launch = [&](auto zero, auto key) {
    using T = decltype(zero);
    const TopK<T> a{scores.const_data_ptr<T>(),
                    o.const_data_ptr<int64_t>(),
                    f.const_data_ptr<int64_t>(),
                    layers,
                    n,
                    k,
                    chosen.data_ptr<uint8_t>(),
                    mask.data_ptr<T>(),
                    threshold.data_ptr<T>(),
                    kept.data_ptr<int64_t>(),
                    order.data_ptr<int64_t>()};
    topk_kernel<T, decltype(key)><<<1, THREADS, 0, c10::cuda::getCurrentCUDAStream()>>>(a);
  };
  if (wide)
    launch(double(), uint64_t());
  else
    launch(float(), uint32_t());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  // The threshold says what is wrong with the values: read here unless a graph is being captured.
  if (c10::cuda::currentStreamCaptureStatusMayInitCtx() == c10::cuda::CaptureStatus::None) {
    const double found = threshold.item<double>();
    TORCH_CHECK_VALUE(!std::isnan(found), "channel scores hold NaN or infinite values");
    TORCH_CHECK_VALUE(found != -std::numeric_limits<double>::infinity(), "cannot keep ", k, " of ",
                      n, " channels: offsets must go from 0 to ", n,
                      ", the number of scores, without falling, floors lie between 0 and each "
                      "layer's channels, and their sum be at most k");
  }
  return {mask.to(scores_in.scalar_type()), threshold.to(scores_in.scalar_type()), kept, order};
}

TORCH_LIBRARY_IMPL(pass_transfer, CUDA, m) { m.impl("global_topk_mask", &global_topk_mask_cuda); }

}  // namespace pass_transfer
