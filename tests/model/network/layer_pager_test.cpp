// A checkpoint read layer by layer, past the page cache and through it: which pages of the mapping the process holds,
// and that the network's tensors hold what the files do.
#include "model/network/layer_pager.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "model/export/init.h"
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

/// A checkpoint on the disk, what its files hold, and a network that reads it.
struct Paged {
  Scratch scratch;
  Checkpoint checkpoint = made(scratch.path() / "model");
  Transformer transformer{checkpoint, at::kBFloat16};
  std::vector<std::vector<Bytes>> layers;
  std::vector<std::uint64_t> expected;  // sums of what the tensors of each layer hold

  Paged() {
    for (std::int64_t n = 0; n < 4; ++n) {
      std::vector<Bytes>& parts = layers.emplace_back();
      for (const MappedPart& part : checkpoint.layer_parts(n)) parts.push_back(part.bytes);
      expected.push_back(sum(tensors(n)));
    }
  }

  static Checkpoint made(const std::filesystem::path& where) {
    init_checkpoint(four_layers(), 1, ExpertStorage::kMxfp4, std::nullopt, where);
    return Checkpoint(where);
  }

  [[nodiscard]] std::vector<Bytes> tensors(std::int64_t n) const {
    const Layer& layer = transformer.layers()[static_cast<std::size_t>(n)];
    std::vector<Bytes> all;
    for (const at::Tensor& tensor :
         {layer.input_layernorm, layer.q_proj.weight, layer.q_proj.bias, layer.k_proj.weight, layer.k_proj.bias,
          layer.v_proj.weight, layer.v_proj.bias, layer.o_proj.weight, layer.o_proj.bias, layer.sinks,
          layer.post_attention_layernorm, layer.router.weight, layer.router.bias, layer.experts.gate_up.packed.blocks,
          layer.experts.gate_up.packed.scales, layer.experts.gate_up_bias, layer.experts.down.packed.blocks,
          layer.experts.down.packed.scales, layer.experts.down_bias}) {
      all.emplace_back(static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes());
    }
    return all;
  }

  [[nodiscard]] bool is_mapped(std::int64_t n) const {
    const Bytes blocks = tensors(n)[13];
    return std::any_of(layers[static_cast<std::size_t>(n)].begin(), layers[static_cast<std::size_t>(n)].end(),
                       [&](const Bytes& part) { return part.data() == blocks.data(); });
  }
};

/// However many layers come through the page cache, and in whatever order they are asked for, wanted ones that nobody
/// waits for included.
TEST(LayerPager, TensorsHoldWhatTheFilesDo) {
  const Paged paged;
  ASSERT_GT(present(paged.layers[0]), 0.99);
  for (std::int64_t cached = 0; cached <= 5; ++cached) {
    {
      LayerPager pager(paged.transformer.layers(), paged.checkpoint, cached);
      for (const auto& [n, next] : std::vector<std::pair<std::int64_t, std::int64_t>>{{0, 1},
                                                                                      {1, 2},
                                                                                      {2, 3},
                                                                                      {3, 3},
                                                                                      {3, 2},
                                                                                      {2, 1},
                                                                                      {0, 3},
                                                                                      {1, 0},
                                                                                      {3, 0},
                                                                                      {2, 2},
                                                                                      {0, 0},
                                                                                      {0, 1},
                                                                                      {1, 1}}) {
        pager.enter(n, next);
        for (std::int64_t other = 0; other < 4; ++other) {
          const bool may_be_held = other == next && next != n;  // from when it was the one in use
          EXPECT_TRUE(may_be_held || paged.is_mapped(other) == (other != n)) << other;
          // The kernel maps a few neighbours of a page that is touched.
          EXPECT_LT(present(paged.layers[static_cast<std::size_t>(other)]), 0.2) << other;
        }
        EXPECT_EQ(sum(paged.tensors(n)), paged.expected[static_cast<std::size_t>(n)]) << n << " of " << cached;
      }
    }
    for (std::int64_t n = 0; n < 4; ++n) {
      EXPECT_TRUE(paged.is_mapped(n));
      EXPECT_EQ(sum(paged.tensors(n)), paged.expected[static_cast<std::size_t>(n)]) << n << " afterwards";
    }
  }
}

TEST(LayerPager, IsNeverLateForWhoeverAsksFaster) {
  const Paged paged;
  std::minstd_rand random(1);
  for (const std::int64_t cached : {0, 2}) {
    LayerPager pager(paged.transformer.layers(), paged.checkpoint, cached);
    for (int step = 0; step < 2'000; ++step) {
      const auto n = static_cast<std::int64_t>(random() % 4), next = static_cast<std::int64_t>(random() % 4);
      pager.enter(n, next);
      if (step % 100 != 0) continue;
      EXPECT_EQ(sum(paged.tensors(n)), paged.expected[static_cast<std::size_t>(n)]);
    }
  }
}

TEST(LayerPager, LetsGoOfWhatWasUsedWithoutAsking) {
  const Paged paged;
  LayerPager pager(paged.transformer.layers(), paged.checkpoint, 2);
  pager.enter(0, 1);
  for (std::int64_t n = 1; n < 4; ++n) EXPECT_EQ(sum(paged.tensors(n)), paged.expected[static_cast<std::size_t>(n)]);
  EXPECT_GT(present(paged.layers[3]), 0.99);
  pager.enter(1, 2);
  for (const auto& layer : paged.layers) EXPECT_LT(present(layer), 0.2);
}

TEST(LayerPager, AFileThatGotShorterIsAnErrorAndWhatIsLeftCanBeUsed) {
  for (const std::int64_t cached : {0, 4}) {
    const Paged paged;
    LayerPager pager(paged.transformer.layers(), paged.checkpoint, cached);
    const auto file = paged.checkpoint.layer_parts(0).front().file;
    const std::byte* end = nullptr;
    for (const Bytes part : paged.layers[3]) end = std::max(end, part.data() + part.size());
    std::filesystem::resize_file(file->path(), static_cast<std::uintmax_t>(end - file->bytes().data()) - 100);
    for (int times = 0; times < 2; ++times) {
      pager.enter(2, 3);
      EXPECT_EQ(sum(paged.tensors(2)), paged.expected[2]);
      try {
        pager.enter(3, 3);
        FAIL() << "it had been cut";
      } catch (const CheckpointError& error) {
        EXPECT_NE(std::string(error.what()).find("it ends at byte"), std::string::npos) << error.what();
      }
    }
  }
}

TEST(MappedFile, ReadsPagesToItsEnd) {
  const Scratch scratch;
  const auto path = scratch.path() / "file";
  std::string text(10'000, 'x');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>('a' + i % 23);
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  for (const ReadWay way : {ReadWay::kDirect, ReadWay::kCached}) {
    std::ofstream(path) << text;
    const auto file = MappedFile::open(path, "a file", 1, "a byte");
    const PageMemory memory(1 << 20);
    const auto bytes = memory.bytes().first(4 * page);
    file->read(0, bytes, way);
    EXPECT_EQ(std::memcmp(bytes.data(), text.data(), text.size()), 0);
    file->read(page, bytes.first(page), way);
    EXPECT_EQ(std::memcmp(bytes.data(), text.data() + page, std::min(page, text.size() - page)), 0);
    std::filesystem::resize_file(path, 5'000);
    EXPECT_THROW(file->read(0, bytes, way), CheckpointError);
  }
}

}  // namespace
}  // namespace ossature
