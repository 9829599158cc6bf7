// Stages of a pipeline that are ranks beside each other.
#pragma once

#include <array>
#include <deque>

#include "model/network/stage.h"
#include "train/ranks/ranks.h"

namespace ossature {

/// Of a contiguous tensor on the CPU.
[[nodiscard]] std::span<std::byte> bytes_of(const at::Tensor& tensor);

/// Links a rank to the one before and the one after it, where there are such.
class RankLink final : public StageLink {
 public:
  explicit RankLink(Ranks& ranks) : ranks_(ranks) {}

  void send(Neighbour to, const at::Tensor& tensor) override;
  void begin_receive(Neighbour from, const at::Tensor& tensor) override;
  void wait_received(Neighbour from) override;

 private:
  [[nodiscard]] std::int64_t rank_of(Neighbour neighbour) const {
    return ranks_.rank() + (neighbour == Neighbour::kBefore ? -1 : 1);
  }

  Ranks& ranks_;
  std::array<std::deque<Ranks::Receipt>, 2> coming_;  // by neighbour
};

}  // namespace ossature
