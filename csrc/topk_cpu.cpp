// Global top-k over all layers' channel scores, with a floor in each layer.
#include "common.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace pass_transfer {

namespace {

// The `count` best of [first, last) come first. Higher scores are better; of equal ones the lower index.
template <typename T>
void best_first(const T* scores, int64_t* first, int64_t* last, int64_t count) {
  if (count <= 0 || count >= last - first) return;
  std::nth_element(first, first + count - 1, last, [scores](int64_t a, int64_t b) {
    return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
  });
}

template <typename T>
T select(const T* scores, const int64_t* offsets, const int64_t* floors, int64_t layers, int64_t n, int64_t k, T* mask,
         int64_t* kept, int64_t* order) {
  std::vector<int64_t> index(n), rest;
  std::iota(index.begin(), index.end(), 0);
  std::fill(mask, mask + n, T(0));
  rest.reserve(n);
  int64_t left = k;
  for (int64_t l = 0; l < layers; ++l) {
    int64_t* first = index.data() + offsets[l];
    int64_t* last = index.data() + offsets[l + 1];
    best_first(scores, first, last, floors[l]);
    for (int64_t i = 0; i < floors[l]; ++i) mask[first[i]] = T(1);
    rest.insert(rest.end(), first + floors[l], last);
    left -= floors[l];
  }
  best_first(scores, rest.data(), rest.data() + rest.size(), left);
  for (int64_t i = 0; i < left; ++i) mask[rest[i]] = T(1);
  T lowest = std::numeric_limits<T>::infinity();
  for (int64_t l = 0; l < layers; ++l) {
    kept[l] = 0;
    for (int64_t i = offsets[l]; i < offsets[l + 1]; ++i) kept[l] += mask[i] != T(0);
    int64_t in = offsets[l], out = offsets[l] + kept[l];
    for (int64_t i = offsets[l]; i < offsets[l + 1]; ++i) {
      const bool is_kept = mask[i] != T(0);
      order[is_kept ? in++ : out++] = i - offsets[l];
      if (is_kept) lowest = std::min(lowest, scores[i]);
    }
  }
  return lowest;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> global_topk_mask_cpu(const Tensor& scores, const Tensor& offsets, int64_t k, const Tensor& floors) {
  check_topk(scores, offsets, floors);
  const Tensor o = offsets.contiguous(), f = floors.contiguous();
  const int64_t n = scores.numel(), layers = f.numel();
  const int64_t* starts = o.data_ptr<int64_t>();
  const int64_t* least = f.data_ptr<int64_t>();
  TORCH_CHECK_VALUE(starts[0] == 0 && starts[layers] == n, "offsets must go from 0 to ", n, ", the number of scores; these do not belong together");
  int64_t sum = 0;
  for (int64_t l = 0; l < layers; ++l) {
    TORCH_CHECK_VALUE(starts[l] <= starts[l + 1], "offsets must not fall");
    TORCH_CHECK_VALUE(least[l] >= 0 && least[l] <= starts[l + 1] - starts[l], "floors[", l, "] is ", least[l], "; the layer has ",
                      starts[l + 1] - starts[l], " channels");
    sum += least[l];
  }
  TORCH_CHECK_VALUE(sum <= k && k <= n, "cannot keep ", k, " of ", n, " channels with floors that sum to ", sum);
  // Compared in double: exact for every dtype that is allowed.
  const Tensor s = scores.to(at::kDouble).contiguous();
  const double* values = s.data_ptr<double>();
  TORCH_CHECK_VALUE(std::all_of(values, values + n, [](double v) { return std::isfinite(v); }), "channel scores hold NaN or infinite values");
  Tensor mask = at::empty({n}, s.options()), kept = at::empty({layers}, o.options()), order = at::empty({n}, o.options());
  const double lowest = select(values, starts, least, layers, n, k, mask.data_ptr<double>(), kept.data_ptr<int64_t>(), order.data_ptr<int64_t>());
  return {mask.to(scores.scalar_type()), at::scalar_tensor(lowest, scores.options()), kept, order};
}

TORCH_LIBRARY_IMPL(pass_transfer, CPU, m) { m.impl("global_topk_mask", &global_topk_mask_cpu); }

}  // namespace pass_transfer
