// Global top-k over the scores of all single weights, by radix select. Everything that is found
// stays on the device until the masks are written.
#include "radix.h"
#include "topk_weights.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>
#include <type_traits>
#include <vector>

namespace pass_transfer {

namespace {

constexpr int THREADS = 256;
constexpr int64_t MOST_BLOCKS = 1024;
constexpr int DIGIT_BITS = 11;  // a histogram fits in shared memory
constexpr int DIGITS = 1 << DIGIT_BITS;

template <typename Key>
struct State {
  Threshold<Key> threshold;
  bool broken;  // a score that is not finite
};

using Count = unsigned long long;

template <typename T, bool MAGNITUDE>
struct Reader {
  using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;
  using Key = std::conditional_t<std::is_same_v<T, double>, uint64_t, uint32_t>;
  const T* scores;
  int64_t n;

  __device__ Wide value(int64_t i) const { return static_cast<Wide>(scores[i]); }
  __device__ Key key(int64_t i) const {
    const Wide found = value(i);
    return key_of(MAGNITUDE && found < 0 ? -found : found);
  }
};

// Adds one tensor to the counts of a digit among the keys that begin with what is known.
template <typename Scores, typename Key>
__global__ void __launch_bounds__(THREADS)
    count_kernel(Scores scores, State<Key>* state, Digit digit, Count* counts) {
  __shared__ unsigned own[DIGITS];
  for (int d = threadIdx.x; d < DIGITS; d += THREADS) own[d] = 0;
  __syncthreads();
  const Key prefix = state->threshold.prefix;
  for (int64_t i = blockIdx.x * int64_t(THREADS) + threadIdx.x; i < scores.n;
       i += int64_t(gridDim.x) * THREADS) {
    if (!isfinite(scores.value(i))) state->broken = true;
    const Key key = scores.key(i);
    if (digit.above(key) == prefix) atomicAdd(&own[digit.of(key)], 1u);
  }
  __syncthreads();
  for (int d = threadIdx.x; d < DIGITS; d += THREADS)
    if (own[d]) atomicAdd(&counts[d], static_cast<Count>(own[d]));
}

// The threshold goes on by a digit; the counts are zero again.
template <typename Key>
__global__ void __launch_bounds__(THREADS)
    refine_kernel(State<Key>* state, Digit digit, Count* counts) {
  __shared__ Count own[DIGITS];
  for (int d = threadIdx.x; d < DIGITS; d += THREADS) {
    own[d] = counts[d];
    counts[d] = 0;
  }
  __syncthreads();
  if (threadIdx.x == 0) state->threshold.refine(own, digit);
}

// Keeps what is above the threshold, a block a chunk; counts what is equal to it.
template <typename Scores, typename Key>
__global__ void __launch_bounds__(THREADS)
    keep_above_kernel(Scores scores, const State<Key>* state, bool* kept, int64_t* equal) {
  __shared__ unsigned ties;
  if (threadIdx.x == 0) ties = 0;
  __syncthreads();
  const Key threshold = state->threshold.prefix;
  const int64_t first = blockIdx.x * SCORES_A_CHUNK;
  const int64_t last = min(scores.n, first + SCORES_A_CHUNK);
  unsigned own = 0;
  for (int64_t i = first + threadIdx.x; i < last; i += THREADS) {
    const Key key = scores.key(i);
    kept[i] = key > threshold;
    own += key == threshold;
  }
  if (own) atomicAdd(&ties, own);
  __syncthreads();
  if (threadIdx.x == 0) equal[blockIdx.x] = ties;
}

// Each chunk's share of the equal ones that are kept: the first chunks', in the order of the
// scores.
template <typename Key>
__global__ void share_kernel(const State<Key>* state, int64_t* equal, int64_t chunks) {
  int64_t left = state->threshold.left;
  for (int64_t c = 0; c < chunks; ++c) {
    equal[c] = min(equal[c], left);
    left -= equal[c];
  }
}

// Keeps a chunk's share, from the lowest index on, with one warp.
template <typename Scores, typename Key>
__global__ void __launch_bounds__(32)
    keep_equal_kernel(Scores scores, const State<Key>* state, bool* kept, const int64_t* equal) {
  const Key threshold = state->threshold.prefix;
  const int64_t first = blockIdx.x * SCORES_A_CHUNK;
  const int64_t last = min(scores.n, first + SCORES_A_CHUNK);
  int64_t share = equal[blockIdx.x];
  for (int64_t base = first; share > 0 && base < last; base += 32) {
    const int64_t i = base + threadIdx.x;
    const bool tie = i < last && scores.key(i) == threshold;
    const unsigned ties = __ballot_sync(0xffffffffu, tie);
    if (tie && __popc(ties & ((1u << threadIdx.x) - 1)) < share) kept[i] = true;
    share -= min(share, static_cast<int64_t>(__popc(ties)));
  }
}

template <typename T, bool MAGNITUDE>
void select(const std::vector<Tensor>& scores, const std::vector<Tensor>& masks, int64_t k) {
  using Scores = Reader<T, MAGNITUDE>;
  using Key = typename Scores::Key;
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  const auto bytes = scores[0].options().dtype(at::kByte), whole = bytes.dtype(at::kLong);
  std::vector<int64_t> chunks;
  int64_t all = 0;
  for (const Tensor& part : scores) {
    chunks.push_back((part.numel() + SCORES_A_CHUNK - 1) / SCORES_A_CHUNK);
    all += chunks.back();
  }
  const State<Key> begin{{0, k}, false};
  State<Key> end = begin;
  Tensor held = at::empty({static_cast<int64_t>(sizeof begin)}, bytes),
         counted = at::zeros({DIGITS}, whole), equal = at::empty({all}, whole);
  auto* state = reinterpret_cast<State<Key>*>(held.data_ptr<uint8_t>());
  auto* counts = reinterpret_cast<Count*>(counted.data_ptr<int64_t>());
  C10_CUDA_CHECK(cudaMemcpyAsync(state, &begin, sizeof begin, cudaMemcpyHostToDevice, stream));
  // Calls something with each tensor that holds scores, its mask and the places of its chunks.
  const auto each = [&](const auto& launch) {
    int64_t* place = equal.data_ptr<int64_t>();
    for (size_t i = 0; i < scores.size(); place += chunks[i++])
      if (chunks[i] > 0)
        launch(Scores{scores[i].const_data_ptr<T>(), scores[i].numel()}, masks[i].data_ptr<bool>(),
               place, chunks[i]);
  };
  for (int shift = KEY_BITS<Key>; shift > 0;) {
    const Digit digit = next_digit(shift, DIGIT_BITS);
    each([&](Scores part, bool*, int64_t*, int64_t) {
      const int64_t blocks = std::min(MOST_BLOCKS, (part.n + THREADS - 1) / THREADS);
      count_kernel<<<blocks, THREADS, 0, stream>>>(part, state, digit, counts);
      C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
    refine_kernel<<<1, THREADS, 0, stream>>>(state, digit, counts);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    shift = digit.shift;
  }
  each([&](Scores part, bool* kept, int64_t* place, int64_t blocks) {
    keep_above_kernel<<<blocks, THREADS, 0, stream>>>(part, state, kept, place);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  share_kernel<<<1, 1, 0, stream>>>(state, equal.data_ptr<int64_t>(), all);
  C10_CUDA_KERNEL_LAUNCH_CHECK();
  each([&](Scores part, bool* kept, int64_t* place, int64_t blocks) {
    keep_equal_kernel<<<blocks, 32, 0, stream>>>(part, state, kept, place);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  });
  C10_CUDA_CHECK(cudaMemcpyAsync(&end, state, sizeof end, cudaMemcpyDeviceToHost, stream));
  C10_CUDA_CHECK(cudaStreamSynchronize(stream));
  TORCH_CHECK_VALUE(!end.broken, "weight scores hold NaN or infinite values");
}

}  // namespace

std::vector<Tensor> global_topk_weights_cuda(at::TensorList scores_in, int64_t k, bool magnitude) {
  check_weight_scores(scores_in, k);
  std::vector<Tensor> scores, masks;
  if (scores_in.empty()) return masks;
  const c10::cuda::CUDAGuard guard(scores_in[0].device());
  for (const Tensor& part : scores_in) {
    scores.push_back(part.contiguous());
    masks.push_back(at::empty(part.sizes(), part.options().dtype(at::kBool)));
  }
  PT_DISPATCH(scores[0].scalar_type(), "global_topk_weights", [&] {
    if (magnitude)
      select<scalar_t, true>(scores, masks, k);
    else
      select<scalar_t, false>(scores, masks, k);
  });
  if (k == 0)
    for (Tensor& mask : masks) mask.zero_();
  return masks;
}

TORCH_LIBRARY_IMPL(pass_transfer, CUDA, m) {
  m.impl("global_topk_weights", &global_topk_weights_cuda);
}

}  // namespace pass_transfer
