#include "train/ranks/rank_link.h"

namespace ossature {

std::span<std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.data_ptr()), static_cast<std::size_t>(tensor.nbytes())};
}

void RankLink::send(Neighbour to, const at::Tensor& tensor) {
  ranks_.begin_send(rank_of(to), bytes_of(tensor), std::make_shared<const at::Tensor>(tensor));
}

void RankLink::begin_receive(Neighbour from, const at::Tensor& tensor) {
  coming_[static_cast<std::size_t>(from)].push_back(ranks_.begin_receive(rank_of(from), bytes_of(tensor)));
}

void RankLink::wait_received(Neighbour from) {
  auto& coming = coming_[static_cast<std::size_t>(from)];
  ranks_.wait_for(coming.front());
  coming.pop_front();
}

}  // namespace ossature
