// A mapped checkpoint read layer by layer: which pages the process holds, and that their bytes stay what they are.
#include "model/layer_pager.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <thread>
#include <vector>

#include "model/init.h"
#include "tests/malformed/scratch.h"

namespace ossature {
namespace {

using Bytes = std::span<const std::byte>;

/// Share of the whole pages of `parts` that are mapped into this process (bit 63 of an entry of /proc/self/pagemap, see
/// the kernel's admin-guide/mm/pagemap).
double present(const std::vector<Bytes>& parts) {
  const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
  const int file = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  std::int64_t all = 0, found = 0;
  for (const Bytes part : parts) {
    const auto begin = reinterpret_cast<std::uintptr_t>(part.data());
    for (auto at = (begin + page - 1) / page; (at + 1) * page <= begin + part.size(); ++at) {
      std::uint64_t entry = 0;
      if (pread(file, &entry, sizeof entry, static_cast<off_t>(at * sizeof entry)) != sizeof entry) continue;
      ++all;
      found += static_cast<std::int64_t>(entry >> 63);
    }
  }
  close(file);
  return all > 0 ? static_cast<double>(found) / static_cast<double>(all) : -1.0;
}

std::uint64_t sum(const std::vector<Bytes>& parts) {
  std::uint64_t total = 0;
  for (const Bytes part : parts) {
    for (const std::byte byte : part) total = total * 31 + std::to_integer<std::uint64_t>(byte);
  }
  return total;
}

ModelConfig four_layers() {
  ModelConfig config = *preset("tiny");
  config.num_hidden_layers = 4;
  config.sliding_layers = {true, false, true, false};
  config.hidden_size = 256;
  config.intermediate_size = 512;
  return config;
}

TEST(LayerPager, HoldsTheLayerInUseAndTheNext) {
  const Scratch scratch;
  init_checkpoint(four_layers(), 1, ExpertStorage::kMxfp4, std::nullopt, scratch.path() / "model");
  const Checkpoint checkpoint(scratch.path() / "model");
  std::vector<std::vector<Bytes>> layers;
  std::vector<std::uint64_t> expected;
  for (std::int64_t n = 0; n < 4; ++n) {
    layers.push_back(checkpoint.layer_bytes(n));
    expected.push_back(sum(layers.back()));
  }
  ASSERT_GT(present(layers[0]), 0.99);
  LayerPager pager(checkpoint);
  const std::vector<std::int64_t> path{0, 1, 2, 3, 2, 1, 0};
  for (std::size_t step = 0; step < path.size(); ++step) {
    const auto n = path[step], next = step + 1 < path.size() ? path[step + 1] : n;
    pager.enter(n, next);
    const auto& coming = layers[static_cast<std::size_t>(next)];
    for (int waits = 0; waits < 500 && present(coming) < 0.99; ++waits) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    EXPECT_GT(present(coming), 0.99) << "layer " << next;
    for (std::int64_t other = 0; other < 4; ++other) {
      if (other == n || other == next) continue;
      // The kernel maps a few neighbours of a page that is touched.
      EXPECT_LT(present(layers[static_cast<std::size_t>(other)]), 0.2) << other;
    }
    EXPECT_EQ(sum(layers[static_cast<std::size_t>(n)]), expected[static_cast<std::size_t>(n)]) << n;
  }
}

}  // namespace
}  // namespace ossature
