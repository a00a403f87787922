// Checks and small helpers that the kernels share.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <cstdint>
#include <vector>

// One function for AVX-512, AVX2 and plain x86-64, chosen when it is loaded: the build
// machine's instruction set need not be that of the machine that runs it.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define PT_MULTIVERSION __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define PT_MULTIVERSION
#endif

namespace pass_transfer {

using at::Tensor;

// Where a tensor with channels in dimension 1 has them in memory.
enum class Layout { Planes, Rows };

// Planes: each channel's positions lie together (NCHW, also (B, C)). Rows: channels lie together.
inline Layout layout_of(const Tensor& x) {
  return x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast) && !x.is_contiguous()
             ? Layout::Rows
             : Layout::Planes;
}

// x itself if it is dense in one of both layouts, else a copy that is.
inline Tensor dense(const Tensor& x) {
  if (x.dim() == 4 && x.is_contiguous(at::MemoryFormat::ChannelsLast)) return x;
  return x.contiguous();
}

// Refuses what is not of this shape and type where x is.
inline void check_like(const Tensor& t, const char* name, at::IntArrayRef sizes,
                       at::ScalarType type, const Tensor& x) {
  TORCH_CHECK_VALUE(t.sizes() == sizes, name, " has shape ", t.sizes(), "; it must be ", sizes);
  TORCH_CHECK_TYPE(t.scalar_type() == type, name, " is ", t.scalar_type(), "; it must be ", type);
  TORCH_CHECK_VALUE(t.device() == x.device(), name, " is on ", t.device(), ", x on ", x.device());
}

inline void check_vector(const Tensor& mask, const Tensor& x, int64_t channels, const char* name) {
  TORCH_CHECK_VALUE(mask.dim() == 1 && mask.size(0) == channels, name, " has shape ", mask.sizes(),
                    "; it must be (", channels, ",)");
  TORCH_CHECK_VALUE(mask.device() == x.device(), name, " is on ", mask.device(), ", x on ",
                    x.device());
  TORCH_CHECK_TYPE(at::isFloatingType(mask.scalar_type()), name, " is ", mask.scalar_type(),
                   "; it must be floating");
}

inline void check_topk(const Tensor& scores, const Tensor& offsets, const Tensor& floors) {
  TORCH_CHECK_VALUE(scores.dim() == 1, "scores ", scores.sizes(),
                    " must be one vector; these parts do not belong together");
  TORCH_CHECK_TYPE(at::isFloatingType(scores.scalar_type()), "scores is ", scores.scalar_type(),
                   "; it must be floating");
  for (const Tensor& t : {offsets, floors}) {
    TORCH_CHECK_TYPE(t.scalar_type() == at::kLong && t.dim() == 1,
                     "offsets and floors must be int64 vectors");
    TORCH_CHECK_VALUE(t.device() == scores.device(),
                      "offsets and floors must be where scores is, on ", scores.device());
  }
  TORCH_CHECK_VALUE(offsets.numel() == floors.numel() + 1, offsets.numel(), " offsets and ",
                    floors.numel(), " floors do not belong together");
}

}  // namespace pass_transfer
