// `ossature init`: what it writes, read back by inspect, and what it refuses.
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "tests/cli/workspace.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

TEST(InitCommand, WritesACheckpointThatInspectReads) {
  const Workspace workspace;
  const std::string out = workspace.path("new");
  const ProgramResult result = run_program({"init", "tiny", "--tokenizer", kEmbedded, "--out", out});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  // hidden 64, vocabulary 1,024: embedding and head alone have 2 * 64 * 1,024.
  EXPECT_EQ(result.out, out + ": 531296 random parameters in 4 layers, 629440 bytes\n");
  const auto report = json_of({"inspect", out});
  EXPECT_EQ(report["kind"], "checkpoint");
  EXPECT_EQ(report["parameters"], 531296);
  EXPECT_EQ(report["stored_bytes"], 629440);
  EXPECT_EQ(report["experts"], "mxfp4");
  EXPECT_EQ(read_bytes(fs::path(out) / "tokenizer.json"), read_bytes(kEmbedded / "tokenizer.json"));
}

TEST(InitCommand, SeedsDecideTheWeights) {
  const Workspace workspace;
  for (const char* seed : {"1", "2"}) output_of({"init", "tiny", "--seed", seed, "--out", workspace.path(seed)});
  output_of({"init", "tiny", "--seed", "1", "--out", workspace.path("again")});
  const auto weights = [&](const char* name) { return read_bytes(workspace.path(name) + "/model.safetensors"); };
  EXPECT_TRUE(weights("1") == weights("again"));
  EXPECT_FALSE(weights("1") == weights("2"));
}

TEST(InitCommand, ShapeOfAFileLayersAndExperts) {
  const Workspace workspace;
  output_of(
      {"init", workspace.small_config(), "--layers", "1", "--experts", "bf16", "--out", workspace.path("deep/new")});
  const auto report = json_of({"inspect", workspace.path("deep/new")});
  EXPECT_EQ(report["experts"], "dense");
  // 4,096 * 32 twice, the last norm, and a layer: norms, q and o (32 x 32), k and v (16 x 32), their biases, sinks,
  // router, experts of 64 x 32 and 32 x 32 with biases.
  const int layer = 2 * 32 + 2 * (32 * 32 + 32) + 2 * (16 * 32 + 16) + 4 + 4 * 32 + 4 + 4 * (64 * 33 + 32 * 33);
  EXPECT_EQ(report["parameters"], 2 * 4096 * 32 + 32 + layer);
}

TEST(InitRefuses, Arguments) {
  const Workspace workspace;
  const std::string out = workspace.path("out");
  workspace.expect_failure({"init", "tiny"}, 2, {"--out is required"});
  workspace.expect_failure({"init", "gpt-oss-7b", "--out", out}, 2, {"\"gpt-oss-7b\" is neither gpt-oss-20b"});
  workspace.expect_failure({"init", kEmbedded, "--out", out}, 2, {kEmbedded, "is a directory"});
  workspace.expect_failure({"init", "tiny", "--layers", "5", "--out", out}, 2, {"--layers: 5 is more than the 4"});
  workspace.expect_failure({"init", "tiny", "--seed", "-1", "--out", out}, 2, {"--seed: "});
  workspace.expect_failure({"init", "tiny", "--experts", "int4", "--out", out}, 2, {"--experts: int4"});
  workspace.expect_failure({"init", "tiny", "--tokenizer", workspace.path("absent"), "--out", out}, 2,
                           {"--tokenizer: ", workspace.path("absent")});
}

TEST(InitRefuses, Files) {
  const Workspace workspace;
  const std::string out = workspace.path("out");
  const std::string broken = workspace.write("broken.json", "{\"hidden_size\": ");
  workspace.expect_failure({"init", broken, "--out", out}, 3, {broken});
  fs::create_directory(workspace.path("empty"));
  workspace.expect_failure({"init", "tiny", "--tokenizer", workspace.path("empty"), "--out", out}, 3,
                           {workspace.path("empty"), "tokenizer.json"});
}

TEST(InitRefuses, Outputs) {
  const Workspace workspace;
  workspace.write("full/notes.txt", "mine");
  workspace.expect_failure({"init", "tiny", "--out", workspace.path("full")}, 3,
                           {workspace.path("full") + ": already exists"});
  const std::string file = workspace.write("file", "mine");
  workspace.expect_failure({"init", "tiny", "--out", file}, 3, {file + ": already exists"});
  workspace.expect_failure({"init", "tiny", "--out", file + "/new"}, 3, {file + "/new", "Not a directory"});
  workspace.expect_failure({"init", "tiny", "--out", "/proc/ossature-test/new"}, 3, {"/proc/ossature-test/new"});
}

TEST(InitFailure, InterruptLeavesNothing) {
  const Workspace workspace;
  const auto begun = [&] { return !workspace.contents().empty(); };
  workspace.expect_failure({"init", "gpt-oss-20b", "--layers", "1", "--out", workspace.path("out")}, 130,
                           {"interrupted; nothing was written"}, {.interrupt_when = begun});
}

TEST(InitFailure, FullDiskLeavesNothing) {
  const Workspace workspace;
  workspace.expect_failure({"init", "tiny", "--out", workspace.path("a/b")}, 5,
                           {workspace.path("a/b"), "File too large"}, {.max_file_bytes = 100'000});
}

}  // namespace
}  // namespace ossature
