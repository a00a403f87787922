// Global top-k over all layers' channel scores, with a floor in each layer.
#include "common.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace pass_transfer {

namespace {

// The `count` best of [first, last) come first.
// Higher scores are better; of equal ones the lower index.
template <typename T>
void best_first(const T* scores, int64_t* first, int64_t* last, int64_t count) {
  if (count <= 0 || count >= last - first) return;
  std::nth_element(first, first + count - 1, last, [scores](int64_t a, int64_t b) {
    return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
  });
}

// Where layers begin in the scores, and how many channels each one keeps at least.
struct Layers {
  const int64_t *offsets, *floors;
  int64_t count;
};

// What comes of a selection.
struct Selected {
  double* mask;
  int64_t *kept, *order;
};

// Ones of the mask: every layer's floor, then the best of what is left.
void choose(const double* scores, const Layers& layers, int64_t n, int64_t k, double* mask) {
  std::vector<int64_t> index(n), rest;
  std::iota(index.begin(), index.end(), 0);
  std::fill(mask, mask + n, 0.0);
  rest.reserve(n);
  int64_t left = k;
  for (int64_t l = 0; l < layers.count; ++l) {
    const int64_t floor = layers.floors[l];
    int64_t* first = index.data() + layers.offsets[l];
    int64_t* last = index.data() + layers.offsets[l + 1];
    best_first(scores, first, last, floor);
    for (int64_t i = 0; i < floor; ++i) mask[first[i]] = 1.0;
    rest.insert(rest.end(), first + floor, last);
    left -= floor;
  }
  best_first(scores, rest.data(), rest.data() + rest.size(), left);
  for (int64_t i = 0; i < left; ++i) mask[rest[i]] = 1.0;
}

// Counts and lists of what a mask keeps; returns the lowest kept score.
double list(const double* scores, const Layers& layers, const Selected& to) {
  double lowest = std::numeric_limits<double>::infinity();
  for (int64_t l = 0; l < layers.count; ++l) {
    const int64_t first = layers.offsets[l], last = layers.offsets[l + 1];
    to.kept[l] = 0;
    for (int64_t i = first; i < last; ++i) to.kept[l] += to.mask[i] != 0;
    int64_t in = first, out = first + to.kept[l];
    for (int64_t i = first; i < last; ++i) {
      const bool is_kept = to.mask[i] != 0;
      to.order[is_kept ? in++ : out++] = i - first;
      if (is_kept) lowest = std::min(lowest, scores[i]);
    }
  }
  return lowest;
}

void check_values(const Layers& layers, int64_t n, int64_t k) {
  const int64_t *starts = layers.offsets, *floors = layers.floors;
  TORCH_CHECK_VALUE(starts[0] == 0 && starts[layers.count] == n, "offsets must go from 0 to ", n,
                    ", the number of scores; these do not belong together");
  int64_t sum = 0;
  for (int64_t l = 0; l < layers.count; ++l) {
    const int64_t width = starts[l + 1] - starts[l];
    TORCH_CHECK_VALUE(width >= 0, "offsets must not fall");
    TORCH_CHECK_VALUE(floors[l] >= 0 && floors[l] <= width, "floors[", l, "] is ", floors[l],
                      "; the layer has ", width, " channels");
    sum += floors[l];
  }
  TORCH_CHECK_VALUE(sum <= k && k <= n, "cannot keep ", k, " of ", n,
                    " channels with floors that sum to ", sum);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> global_topk_mask_cpu(const Tensor& scores,
                                                                const Tensor& offsets, int64_t k,
                                                                const Tensor& floors) {
  check_topk(scores, offsets, floors);
  const Tensor o = offsets.contiguous(), f = floors.contiguous();
  const int64_t n = scores.numel();
  const Layers layers{o.const_data_ptr<int64_t>(), f.const_data_ptr<int64_t>(), f.numel()};
  check_values(layers, n, k);
  // Compared in double: exact for every dtype that is allowed.
  const Tensor s = scores.to(at::kDouble).contiguous();
  const double* values = s.const_data_ptr<double>();
  TORCH_CHECK_VALUE(std::all_of(values, values + n, [](double v) { return std::isfinite(v); }),
                    "channel scores hold NaN or infinite values");
  Tensor mask = at::empty({n}, s.options()), kept = at::empty({layers.count}, o.options()),
         order = at::empty({n}, o.options());
  const Selected to{mask.data_ptr<double>(), kept.data_ptr<int64_t>(), order.data_ptr<int64_t>()};
  choose(values, layers, n, k, to.mask);
  const double lowest = list(values, layers, to);
  return {mask.to(scores.scalar_type()), at::scalar_tensor(lowest, scores.options()), kept, order};
}

TORCH_LIBRARY_IMPL(pass_transfer, CPU, m) { m.impl("global_topk_mask", &global_topk_mask_cpu); }

}  // namespace pass_transfer
