#include "train/run/metrics.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <system_error>
#include <vector>

#include "tests/malformed/scratch.h"
#include "train/loop/memory_use.h"
#include "train/text/number_text.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

class Metrics : public testing::Test {
 protected:
  Scratch scratch_;
  const fs::path& dir_ = scratch_.path();
};

StepMetrics step(std::int64_t number) {
  return {.step = number,
          .loss = 0.1 + 0.2,
          .learning_rate = 1e-4,
          .grad_norm = 2.5,
          .tokens = 300,
          .learned_tokens = 70,
          .seconds = 1.5,
          .bookkeeping_seconds = 0.25,
          .peak_rss_bytes = 3'000'000'000};
}

TEST_F(Metrics, LinesHoldTheDocumentedKeysExactly) {
  MetricsLog log(dir_ / "run", 0);
  log.write(step(1));
  log.write(ValidationMetrics{.step = 1, .validation_loss = 2.5, .learned_tokens = 9, .seconds = 0.5});
  EXPECT_EQ(read_bytes(dir_ / "run/metrics.jsonl"),
            "{\"step\":1,\"loss\":0.30000000000000004,\"learning_rate\":0.0001,\"grad_norm\":2.5,\"tokens\":300,"
            "\"learned_tokens\":70,\"tokens_per_second\":200.0,\"seconds\":1.5,\"bookkeeping_seconds\":0.25,\"peak_rss_"
            "bytes\":3000000000}\n"
            "{\"step\":1,\"validation_loss\":2.5,\"learned_tokens\":9,\"seconds\":0.5}\n");
}

TEST_F(Metrics, NormsByGroupComeLast) {
  MetricsLog log(dir_ / "run", 0);
  StepMetrics metrics = step(1);
  metrics.grad_norms = {{"q_proj", 0.5}, {"experts.down_proj", 2.0}};
  metrics.adapter_norms = {{"q_proj", 0.25}};
  log.write(metrics);
  EXPECT_TRUE(read_bytes(dir_ / "run/metrics.jsonl")
                  .ends_with("\"peak_rss_bytes\":3000000000,\"grad_norms\":{\"experts.down_proj\":2.0,\"q_proj\":0.5},"
                             "\"adapter_norms\":{\"q_proj\":0.25}}\n"));
}

TEST_F(Metrics, LoadsAndChannelsComeAfterTheNorms) {
  MetricsLog log(dir_ / "run", 0);
  StepMetrics metrics = step(1);
  metrics.channel_tokens = {{"final", 50}, {"analysis", 20}};
  metrics.router_load = {1.5, 2.25};
  metrics.expert_tokens = {{3, 1}, {0, 4}};
  log.write(metrics);
  EXPECT_TRUE(read_bytes(dir_ / "run/metrics.jsonl")
                  .ends_with("\"peak_rss_bytes\":3000000000,\"channel_tokens\":{\"analysis\":20,\"final\":50},"
                             "\"router_load\":[1.5,2.25],\"expert_tokens\":[[3,1],[0,4]]}\n"));
}

TEST_F(Metrics, ResumingDropsWhatWasNotSaved) {
  {
    MetricsLog log(dir_, 0);
    for (std::int64_t i = 1; i <= 5; ++i) log.write(step(i));
  }
  const std::string five = read_bytes(dir_ / "metrics.jsonl");
  std::ofstream(dir_ / "metrics.jsonl", std::ios::app) << "{\"step\":2,\"lo";  // killed while writing
  { MetricsLog log(dir_, 3); }
  const std::string three = read_bytes(dir_ / "metrics.jsonl");
  EXPECT_TRUE(five.starts_with(three));
  EXPECT_EQ(std::count(three.begin(), three.end(), '\n'), 3);
  { MetricsLog log(dir_, 0); }
  EXPECT_EQ(read_bytes(dir_ / "metrics.jsonl"), "");
}

TEST_F(Metrics, UnwritableRunFolderIsADiskError) {
  std::ofstream(dir_ / "file") << "x";
  EXPECT_THROW(MetricsLog(dir_ / "file", 0), std::system_error);
}

TEST_F(Metrics, FullDiskIsADiskError) {
  AppendFile full("/dev/full");
  try {
    full.append("x");
    FAIL() << "wrote to /dev/full";
  } catch (const std::system_error& error) {
    EXPECT_EQ(error.code(), std::error_code(ENOSPC, std::generic_category()));
  }
}

/// Bitwise CRC-32C and its mask, written apart from the program's table.
std::uint32_t masked_crc32c(const std::string& bytes) {
  std::uint32_t crc = 0xffffffff;
  for (const unsigned char byte : bytes) {
    crc ^= byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1) != 0 ? (crc >> 1) ^ 0x82f63b78 : crc >> 1;
  }
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8;
}

/// The Event messages of an event file, each with its checksums verified.
std::vector<std::string> events_of(const std::string& bytes) {
  std::vector<std::string> events;
  for (std::size_t at = 0; at < bytes.size();) {
    std::uint64_t length = 0;
    std::array<std::uint32_t, 2> checksums{};
    std::memcpy(&length, &bytes.at(at), 8);
    std::memcpy(&checksums[0], &bytes.at(at + 8), 4);
    events.push_back(bytes.substr(at + 12, length));
    EXPECT_EQ(events.back().size(), length);
    std::memcpy(&checksums[1], &bytes.at(at + 12 + length), 4);
    EXPECT_EQ(checksums[0], masked_crc32c(bytes.substr(at, 8)));
    EXPECT_EQ(checksums[1], masked_crc32c(events.back()));
    at += 16 + length;
  }
  return events;
}

TEST_F(Metrics, ChecksumOfTheTestIsCastagnolis) {  // RFC 3720, B.4: the check value of "123456789" is 0xe3069283
  EXPECT_EQ(masked_crc32c("123456789"), ((0xe3069283U >> 15) | (0xe3069283U << 17)) + 0xa282ead8U);
}

// The bytes after an Event's wall_time, as protoc --decode reads them; tensorboard 2.20 reads such files back equal.
TEST_F(Metrics, EventFileHoldsTheMessages) {
  {
    EventFile file(dir_, 7);
    file.scalar("a/b", 300, 1.5);
    file.text("t", 0, "hi");
  }
  const fs::path path = fs::directory_iterator(dir_)->path();
  EXPECT_NE(path.filename().string().find("tfevents"), std::string::npos);
  const std::vector<std::string> events = events_of(read_bytes(path));
  ASSERT_EQ(events.size(), 4U);
  for (const std::string& event : events) {
    ASSERT_EQ(event[0], '\x09');  // wall_time, a double
    double time = 0;
    std::memcpy(&time, &event[1], 8);
    EXPECT_GT(time, 1.7e9);
  }
  using namespace std::string_view_literals;  // keep zero bytes
  EXPECT_EQ(events[0].substr(9),
            "\x10\x00\x1a\x0d"
            "brain.Event:2"sv);
  EXPECT_EQ(events[1].substr(9), "\x10\x07\x3a\x02\x08\x01"sv);
  EXPECT_EQ(events[2].substr(9),
            "\x10\xac\x02\x2a\x0c\x0a\x0a\x0a\x03"
            "a/b\x15\x00\x00\xc0\x3f"sv);
  EXPECT_EQ(events[3].substr(9),
            "\x10\x00\x2a\x1d\x0a\x1b\x0a\x01t\x42\x0c\x08\x07\x12\x04\x12\x02\x08\x01\x42\x02hi"
            "\x4a\x08\x0a\x06\x0a\x04text"sv);
}

TEST_F(Metrics, TwoEventFilesOfOneSecondDiffer) {
  EventFile first(dir_);
  EventFile second(dir_);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_), fs::directory_iterator()), 2);
}

TEST_F(Metrics, ProgressLines) {
  EXPECT_EQ(progress_line(step(12), 340, 185),
            "step 12/340  loss 0.3000  lr 1.00e-04  grad 2.5  200 tokens/s  3.0 GB  3:05 left");
  EXPECT_EQ(
      progress_line(ValidationMetrics{.step = 0, .validation_loss = 2.10204, .learned_tokens = 40, .seconds = 3.14}, 9),
      "step 0/9  validation loss 2.1020  (40 tokens, 3.1 s)");
  EXPECT_EQ(duration_text(7.4), "0:07");
  EXPECT_EQ(duration_text(723), "12:03");
  EXPECT_EQ(duration_text(11262), "3:07:42");
  EXPECT_EQ(duration_text(-1), "0:00");
}

TEST_F(Metrics, MemoryUseCountsAnonymousAndPeakPages) {
  constexpr std::size_t kBytes = 64 << 20;
  const MemoryUse before = read_memory_use();
  void* block = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(block, MAP_FAILED);
  std::memset(block, 1, kBytes);
  const MemoryUse during = read_memory_use();
  ::munmap(block, kBytes);
  const MemoryUse after = read_memory_use();
  constexpr std::int64_t kMost = 60 << 20;  // the kernel's counters lag by some pages
  EXPECT_GT(during.anonymous_bytes - before.anonymous_bytes, kMost);
  EXPECT_GT(during.rss_bytes - before.rss_bytes, kMost);
  EXPECT_GT(during.anonymous_bytes - after.anonymous_bytes, kMost);
  EXPECT_GT(after.peak_rss_bytes - after.rss_bytes, kMost);
}

}  // namespace
}  // namespace ossature
