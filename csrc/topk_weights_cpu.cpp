// Global top-k over the scores of all single weights, by radix select: some passes over the scores,
// each shared out among the threads, and no copy of them.
#include "common.h"
#include "radix.h"
#include "topk_weights.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <mutex>
#include <type_traits>
#include <vector>

namespace pass_transfer {

namespace {

// A run of scores of one tensor, and its part of the mask. Chunks stand in the order of the scores.
template <typename T>
struct Chunk {
  const T* scores;
  bool* kept;
  int64_t count;
};

template <typename T>
std::vector<Chunk<T>> chunks_of(const std::vector<Tensor>& scores,
                                const std::vector<Tensor>& masks) {
  std::vector<Chunk<T>> found;
  for (size_t i = 0; i < scores.size(); ++i) {
    const T* from = scores[i].const_data_ptr<T>();
    bool* to = masks[i].data_ptr<bool>();
    for (int64_t first = 0; first < scores[i].numel(); first += SCORES_A_CHUNK)
      found.push_back(
          {from + first, to + first, std::min<int64_t>(SCORES_A_CHUNK, scores[i].numel() - first)});
  }
  return found;
}

constexpr int DIGIT_BITS = 16;  // of which few values occur among weights, so that counts stay near
constexpr int64_t DIGITS = 1 << DIGIT_BITS;
constexpr int64_t FEW = 128;  // up to a share of one in so many, candidates are written down
constexpr int64_t BLOCK = 64;

template <typename T>
using WideOf = std::conditional_t<std::is_same_v<T, double>, double, float>;
template <typename T>
using KeyOf = std::conditional_t<std::is_same_v<T, double>, uint64_t, uint32_t>;

template <bool MAGNITUDE, typename T>
inline KeyOf<T> key_in_order(T score) {
  const WideOf<T> value = static_cast<WideOf<T>>(score);
  return key_of(MAGNITUDE ? std::abs(value) : value);
}

// Counts a digit of the keys that begin with a prefix; says whether all scores are finite.
template <bool MAGNITUDE, typename T>
bool count_chunk(const Chunk<T>& chunk, KeyOf<T> prefix, Digit digit, int64_t* counts) {
  bool finite = true;
  for (int64_t i = 0; i < chunk.count; ++i) {
    finite &= std::isfinite(static_cast<WideOf<T>>(chunk.scores[i]));
    const KeyOf<T> key = key_in_order<MAGNITUDE>(chunk.scores[i]);
    if (digit.above(key) == prefix) ++counts[digit.of(key)];
  }
  return finite;
}

// Keeps what is above a prefix that ends at bit `shift`.
template <bool MAGNITUDE, typename T>
void keep_above(const Chunk<T>& chunk, KeyOf<T> prefix, int shift) {
  for (int64_t i = 0; i < chunk.count; ++i)
    chunk.kept[i] = key_in_order<MAGNITUDE>(chunk.scores[i]) >> shift > prefix;
}

// Calls something with the place of every key that begins with a prefix, lowest first, until it
// says no.
template <bool MAGNITUDE, typename T, typename Found>
void each_of(const Chunk<T>& chunk, KeyOf<T> prefix, int shift, const Found& found) {
  const auto is_one = [&](int64_t i) {
    return key_in_order<MAGNITUDE>(chunk.scores[i]) >> shift == prefix;
  };
  for (int64_t first = 0; first < chunk.count; first += BLOCK) {
    const int64_t last = std::min(chunk.count, first + BLOCK);
    int any = 0;
    for (int64_t i = first; i < last; ++i) any |= is_one(i);
    if (!any) continue;
    for (int64_t i = first; i < last; ++i)
      if (is_one(i) && !found(i)) return;
  }
}

template <typename T, bool MAGNITUDE>
struct RadixSelect {
  using Key = KeyOf<T>;
  const std::vector<Chunk<T>> chunks;

  template <typename Work>
  void each_chunk(const Work& work) const {
    at::parallel_for(0, static_cast<int64_t>(chunks.size()), 1, [&](int64_t first, int64_t last) {
      for (int64_t c = first; c < last; ++c) work(c);
    });
  }

  // How often each value of a digit occurs among the keys that begin with a prefix.
  std::vector<int64_t> count(Key prefix, Digit digit) const {
    std::vector<int64_t> all(DIGITS);
    std::mutex adding;
    std::atomic<bool> finite{true};
    at::parallel_for(0, static_cast<int64_t>(chunks.size()), 1, [&](int64_t first, int64_t last) {
      std::vector<int64_t> own(DIGITS);
      for (int64_t c = first; c < last; ++c)
        if (!count_chunk<MAGNITUDE>(chunks[c], prefix, digit, own.data())) finite = false;
      const std::lock_guard<std::mutex> guard(adding);
      for (int64_t d = 0; d < DIGITS; ++d) all[d] += own[d];
    });
    TORCH_CHECK_VALUE(finite, "weight scores hold NaN or infinite values");
    return all;
  }

  // Keeps the best `left` of the few keys that begin with a prefix; the lower index among equals.
  void keep_candidates(Key prefix, int shift, int64_t left) const {
    struct Candidate {
      Key key;
      bool* kept;
      int64_t order;
    };
    std::vector<std::vector<Candidate>> of_chunks(chunks.size());
    each_chunk([&](int64_t c) {
      each_of<MAGNITUDE>(chunks[c], prefix, shift, [&](int64_t i) {
        of_chunks[c].push_back({key_in_order<MAGNITUDE>(chunks[c].scores[i]), chunks[c].kept + i,
                                c * SCORES_A_CHUNK + i});
        return true;
      });
    });
    std::vector<Candidate> all;
    for (std::vector<Candidate>& some : of_chunks) {
      all.insert(all.end(), some.begin(), some.end());
      std::vector<Candidate>().swap(some);
    }
    const auto better = [](const Candidate& a, const Candidate& b) {
      return a.key > b.key || (a.key == b.key && a.order < b.order);
    };
    if (left < static_cast<int64_t>(all.size()))
      std::nth_element(all.begin(), all.begin() + left, all.end(), better);
    for (int64_t i = 0; i < left; ++i) *all[i].kept = true;
  }

  // Keeps the first `left` of the keys that are equal to a threshold.
  void keep_equal(Key threshold, int64_t left) const {
    std::vector<int64_t> share(chunks.size());
    each_chunk([&](int64_t c) {
      each_of<MAGNITUDE>(chunks[c], threshold, 0, [&](int64_t) { return ++share[c] > 0; });
    });
    for (int64_t& part : share) {
      part = std::min(part, left);
      left -= part;
    }
    each_chunk([&](int64_t c) {
      if (share[c] == 0) return;
      each_of<MAGNITUDE>(chunks[c], threshold, 0, [&](int64_t i) {
        chunks[c].kept[i] = true;
        return --share[c] > 0;
      });
    });
  }

  void run(int64_t k, int64_t n) const {
    Threshold<Key> threshold{0, k};
    int64_t candidates = n;
    int shift = KEY_BITS<Key>;
    while (shift > 0 && (shift == KEY_BITS<Key> || candidates > n / FEW)) {
      const Digit digit = next_digit(shift, DIGIT_BITS);
      const std::vector<int64_t> counts = count(threshold.prefix, digit);
      threshold.refine(counts.data(), digit);
      candidates = counts[digit.of(threshold.prefix << digit.shift)];
      shift = digit.shift;
    }
    each_chunk([&](int64_t c) { keep_above<MAGNITUDE>(chunks[c], threshold.prefix, shift); });
    if (shift > 0)
      keep_candidates(threshold.prefix, shift, threshold.left);
    else
      keep_equal(threshold.prefix, threshold.left);
  }
};

}  // namespace

std::vector<Tensor> global_topk_weights_cpu(at::TensorList scores_in, int64_t k, bool magnitude) {
  check_weight_scores(scores_in, k);
  std::vector<Tensor> scores, masks;
  int64_t n = 0;
  for (const Tensor& part : scores_in) {
    scores.push_back(part.contiguous());
    masks.push_back(at::empty(part.sizes(), part.options().dtype(at::kBool)));
    n += part.numel();
  }
  if (scores.empty()) return masks;
  PT_DISPATCH(scores[0].scalar_type(), "global_topk_weights", [&] {
    const auto chunks = chunks_of<scalar_t>(scores, masks);
    if (magnitude)
      RadixSelect<scalar_t, true>{chunks}.run(k, n);
    else
      RadixSelect<scalar_t, false>{chunks}.run(k, n);
  });
  return masks;
}

TORCH_LIBRARY_IMPL(pass_transfer, CPU, m) {
  m.impl("global_topk_weights", &global_topk_weights_cpu);
}

}  // namespace pass_transfer
