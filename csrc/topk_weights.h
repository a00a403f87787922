// What the global top-k over single weights checks and shares on every device.
#pragma once

#include "kernels.h"

namespace pass_transfer {

constexpr int64_t SCORES_A_CHUNK = 1 << 16;

inline void check_weight_scores(at::TensorList scores, int64_t k) {
  int64_t n = 0;
  for (const Tensor& part : scores) {
    TORCH_CHECK_TYPE(at::isFloatingType(part.scalar_type()), "scores hold ", part.scalar_type(),
                     "; they must be floating");
    TORCH_CHECK_TYPE(part.scalar_type() == scores[0].scalar_type(), "scores hold ",
                     scores[0].scalar_type(), " and ", part.scalar_type(),
                     "; they must be of one dtype");
    TORCH_CHECK_VALUE(part.device() == scores[0].device(), "scores are on ", scores[0].device(),
                      " and ", part.device(), "; they must be on one device");
    n += part.numel();
  }
  TORCH_CHECK_VALUE(0 <= k && k <= n, "cannot keep ", k, " of ", n, " weights");
}

}  // namespace pass_transfer
