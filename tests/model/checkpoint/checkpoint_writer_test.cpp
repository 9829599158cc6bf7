// Where shards end, what the index says, and that bytes of any strides arrive in order.
#include "model/checkpoint/checkpoint_writer.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>
#include <system_error>

#include "tests/malformed/scratch.h"
#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

using nlohmann::json;

/// A tensor of `bytes` bytes, all `value`, given in two pieces.
PlannedTensor planned(const std::string& name, std::int64_t bytes, char value) {
  return {name, DType::kU8, {bytes}, [bytes, value](const ByteSink& sink) {
            const std::string text(static_cast<std::size_t>(bytes), value);
            const auto all = std::as_bytes(std::span(text));
            sink(all.first(all.size() / 2));
            sink(all.subspan(all.size() / 2));
          }};
}

std::vector<std::string> files_in(const std::filesystem::path& dir) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

using Names = std::vector<std::string>;

TEST(CheckpointWriter, WhatFitsIsOneFileWithoutIndex) {
  const Scratch scratch;
  write_checkpoint_files(scratch.path(), {planned("b", 60, 'b'), planned("a", 40, 'a')}, 100);
  EXPECT_EQ(files_in(scratch.path()), (Names{"model.safetensors"}));
  const auto file = SafetensorsFile::open(scratch.path() / "model.safetensors");
  ASSERT_EQ(file->tensors().size(), 2U);
  EXPECT_EQ(file->tensors()[0].name, "b");  // in the order given
  EXPECT_EQ(file->tensors()[1].name, "a");
}

TEST(CheckpointWriter, ShardsEndBeforeTheLimitAndCountAsOnTheHub) {
  const Scratch scratch;
  std::vector<std::pair<std::int64_t, std::int64_t>> heard;
  write_checkpoint_files(scratch.path(),
                         {planned("t0", 60, '0'), planned("t1", 41, '1'), planned("t2", 59, '2'),
                          planned("big", 500, 'b'), planned("t3", 1, '3')},
                         100, [&](std::int64_t written, std::int64_t total) { heard.emplace_back(written, total); });
  EXPECT_EQ(files_in(scratch.path()), (Names{"model-00000-of-00003.safetensors", "model-00001-of-00003.safetensors",
                                             "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors",
                                             "model.safetensors.index.json"}));
  const json index = json::parse(read_bytes(scratch.path() / "model.safetensors.index.json"));
  const std::map<std::string, std::string> expected = {{"t0", "model-00000-of-00003.safetensors"},
                                                       {"t1", "model-00001-of-00003.safetensors"},
                                                       {"t2", "model-00001-of-00003.safetensors"},
                                                       {"big", "model-00002-of-00003.safetensors"},
                                                       {"t3", "model-00003-of-00003.safetensors"}};
  EXPECT_EQ(index.at("weight_map"), json(expected));
  EXPECT_EQ(index.at("metadata").at("total_size"), 661);
  for (const auto& [name, file] : expected) {
    const at::Tensor tensor = testing::read_tensors(scratch.path() / file).at(name);
    const char value = name == "big" ? 'b' : name[1];
    EXPECT_TRUE((tensor == static_cast<int>(value)).all().item<bool>()) << name;
  }
  const std::vector<std::pair<std::int64_t, std::int64_t>> steps = {
      {60, 661}, {101, 661}, {160, 661}, {660, 661}, {661, 661}};
  EXPECT_EQ(heard, steps);
}

TEST(CheckpointWriter, AnyStridesGiveTheValuesInOrder) {
  const at::Tensor base = at::arange(24, at::kFloat).view({2, 3, 4});
  for (const at::Tensor& tensor : {base, base.transpose(0, 2), base.select(1, 2), base.slice(2, 0, 4, 2),
                                   base[0][0].expand({5, 4}), base[1][2][3]}) {
    std::vector<float> found;
    write_tensor(tensor, [&](std::span<const std::byte> bytes) {
      const auto* values = reinterpret_cast<const float*>(bytes.data());
      found.insert(found.end(), values, values + bytes.size() / sizeof(float));
    });
    std::vector<float> expected;
    for (std::int64_t i = 0; i < tensor.numel(); ++i) {
      // The i-th value in row-major order, by its index in every dimension.
      at::Tensor at_index = tensor;
      std::int64_t rest = i, below = tensor.numel();
      for (const auto size : tensor.sizes()) {
        below /= size;
        at_index = at_index[rest / below];
        rest %= below;
      }
      expected.push_back(at_index.item<float>());
    }
    EXPECT_EQ(found, expected);
  }
}

TEST(CheckpointWriter, BytesOfAPlan) {
  EXPECT_EQ((PlannedTensor{"a", DType::kBF16, {3, 5}, {}}).num_bytes(), 30);
  EXPECT_EQ((PlannedTensor{"a", DType::kF32, {}, {}}).num_bytes(), 4);
  EXPECT_EQ((PlannedTensor{"a", DType::kU8, {7, 0}, {}}).num_bytes(), 0);
  EXPECT_EQ((PlannedTensor{"a", DType::kBF16, {201088, 2880, 100}, {}}).num_bytes(), 115'826'688'000);
}

TEST(CheckpointWriterFails, WithoutHalfWrittenFiles) {
  const Scratch scratch;
  EXPECT_THROW(write_text_file(scratch.path() / "absent/text", "x"), std::system_error);
  EXPECT_THROW(write_text_file("/dev/full", "x"), std::system_error);
  PlannedTensor short_of_bytes = planned("a", 10, 'a');
  short_of_bytes.shape = {11};
  EXPECT_THROW(write_checkpoint_files(scratch.path(), {short_of_bytes}), std::logic_error);
  PlannedTensor throws = planned("a", 10, 'a');
  throws.write = [](const ByteSink&) { throw CheckpointError("damaged"); };
  EXPECT_THROW(write_checkpoint_files(scratch.path(), {planned("b", 10, 'b'), throws}), CheckpointError);
  EXPECT_EQ(files_in(scratch.path()), Names{});
}

}  // namespace
}  // namespace ossature
