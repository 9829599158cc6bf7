// `ossature export` around the tensors: what travels along, the model card, and what stays behind when it fails.
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/cli/workspace.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(OSSATURE_SOURCE_DIR) / "tests/golden/small";

/// Whether a directory "NAME.partial-..." lies beside `out`.
bool has_partial(const std::string& out) {
  for (const auto& entry : fs::directory_iterator(fs::path(out).parent_path()))
    if (entry.path().filename().string().starts_with(fs::path(out).filename().string() + ".partial-")) return true;
  return false;
}

TEST(ExportBookkeeping, TokenizerTemplateAndGenerationSettingsTravelAlong) {
  const Workspace workspace;
  const std::string model = workspace.path("model");
  fs::copy(kEmbedded, model);
  for (const auto& [name, text] : {std::pair{"chat_template.jinja", "{{ messages }}\n"},
                                   std::pair{"special_tokens_map.json", "{\"eos_token\": \"<|return|>\"}\n"}})
    workspace.write(std::string("model/") + name, text);
  for (const std::string format : {"hf", "openai"}) {
    const std::string out = workspace.path(format);
    output_of({"export", "--model", model, "--format", format, "--out", out});
    for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                             "chat_template.jinja", "generation_config.json"})
      EXPECT_TRUE(read_bytes(fs::path(out) / name) == read_bytes(fs::path(model) / name)) << format << " " << name;
  }
}

TEST(ExportBookkeeping, ModelCardTellsTheSourcesAndThatNothingElseChanged) {
  const Workspace workspace;
  const std::string out = workspace.path("out"), adapter = kGolden / "adapter-trained";
  output_of({"export", "--model", kGolden / "hf", "--adapter", adapter + "=0.5", "--out", out, "--no-verify"});
  const std::string card = read_bytes(out + "/README.md");
  for (const char* part :
       {"---\nlibrary_name: transformers\n", "hf with the LoRA adapter adapter-trained times 0.5 merged",
        "rounded to the nearest values of the grid", "| base hf |  | config.json |", "model.safetensors (header)",
        "| adapter adapter-trained | 0.5 | adapter\\_model.safetensors |"})
    EXPECT_NE(card.find(part), std::string::npos) << part << " in\n" << card;
  EXPECT_EQ(card.find(fs::temp_directory_path().string()), std::string::npos) << "a path of this machine in\n" << card;
  EXPECT_EQ(card.find("Verification"), std::string::npos);
}

TEST(ExportRefuses, CheckpointWithoutOneOfItsShards) {
  const Workspace workspace;
  const std::string model = workspace.path("model");
  fs::copy(kGolden / "hf-sharded", model);
  std::string shard;
  for (const auto& entry : fs::directory_iterator(model))
    if (entry.path().extension() == ".safetensors") shard = entry.path();
  ASSERT_NE(shard, "");
  fs::remove(shard);
  workspace.expect_failure({"export", "--model", model, "--out", workspace.path("out")}, 3,
                           {fs::path(shard).filename().string(), "which is not there"});
}

TEST(ExportFailure, DiskThatIsTooSmallIsNoticedBeforeAnythingIsWritten) {
  const Workspace hollow, workspace;
  const std::uint64_t free = fs::space(fs::temp_directory_path()).available;
  const std::string model = hollow.hollow_model(free + free / 8);
  workspace.expect_failure({"export", "--model", model, "--out", workspace.path("a/out")}, 5,
                           {workspace.path("a/out") + ": needs ", " free;", "No space left on device"});
}

TEST(ExportFailure, InterruptLeavesNothingAndASecondRunSucceeds) {
  const Workspace hollow, workspace;
  const std::string model = hollow.hollow_model(300'000'000), out = workspace.path("out");
  workspace.expect_failure({"export", "--model", model, "--out", out}, 130, {"nothing was written"},
                           {.interrupt_when = [&] { return has_partial(out); }});
  output_of({"export", "--model", model, "--out", out});
  EXPECT_TRUE(fs::exists(out + "/model.safetensors"));
}

TEST(ExportFailure, KillLeavesNoTargetAndTheNextRunRemovesTheRest) {
  const Workspace hollow, workspace;
  const std::string model = hollow.hollow_model(300'000'000), out = workspace.path("out");
  const ProgramResult killed = run_program({"export", "--model", model, "--out", out},
                                           {.interrupt_when = [&] { return has_partial(out); }, .signal = SIGKILL});
  EXPECT_EQ(killed.exit_code, 128 + SIGKILL);
  EXPECT_FALSE(fs::exists(out));
  EXPECT_TRUE(has_partial(out));
  output_of({"export", "--model", model, "--out", out});
  EXPECT_TRUE(fs::exists(out + "/model.safetensors"));
  EXPECT_FALSE(has_partial(out));
}

}  // namespace
}  // namespace ossature
