// A run that meets a loss which is not finite: exit code 4, what it names, and that it can go on once the cause is
// gone.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/cli/spoiled_model.h"
#include "tests/cli/workspace.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

TEST(NonFiniteRun, EndsWithFourNamesTheCauseAndGoesOnWithoutIt) {
  const Workspace workspace;
  const std::string good = workspace.small_model(), tokens = workspace.tokens(8), bad = workspace.path("bad"),
                    run = workspace.path("run");
  const std::int32_t token = token_of_one_sample(tokens, 5);
  ASSERT_GE(token, 0);
  fs::copy(good, bad);
  spoil_embedding(bad, token);
  // A sample a step and in order: the sixth of each epoch of eight is the one with that token.
  const std::string recipe = workspace.write(
      "r.yaml", "base_model: " + bad + "\noutput_dir: " + run + "\ndata: {train: " + tokens +
                    ", sequence_length: 512, packing: false, shuffle: false}\nlora: {r: 4}\n"
                    "train: {gradient_accumulation_steps: 1, epochs: 3, warmup_steps: 0, lr_scheduler: "
                    "constant, learning_rate: 1.0e-2, max_skipped_steps: 1}\ncheckpoint: {every_steps: 4}\n");
  const ProgramResult ended = run_program({"train", recipe});
  EXPECT_EQ(ended.exit_code, 4) << ended.err;
  EXPECT_NE(ended.err.find("\nstep 6/24  skipped (1): "), std::string::npos) << ended.err;
  const std::size_t error = ended.err.find("\nossature: error: step 14: ");
  ASSERT_NE(error, std::string::npos) << ended.err;
  for (const std::string& named : {std::string("the embedding of the tokens is not finite"),
                                   "samples " + tokens + " (" + workspace.path("conversations.jsonl:6") + ")",
                                   std::string("train.max_skipped_steps is 1"), std::string("Nothing was updated")})
    EXPECT_NE(ended.err.find(named, error), std::string::npos) << named << " is not in\n" << ended.err;
  EXPECT_FALSE(fs::exists(run + "/adapter"));
  EXPECT_TRUE(fs::exists(run + "/checkpoints/step-13"));

  // What was saved is what thirteen steps give that nobody ended.
  const std::string thirteen = workspace.path("thirteen");
  output_of({"train", recipe, "output_dir=" + thirteen, "train.max_steps=13"});
  const std::string copy = workspace.path("copy");
  fs::copy(run, copy, fs::copy_options::recursive);
  output_of({"train", recipe, "output_dir=" + copy, "train.max_steps=13", "--resume"});
  EXPECT_TRUE(read_bytes(copy + "/adapter/adapter_model.safetensors") ==
              read_bytes(thirteen + "/adapter/adapter_model.safetensors"));

  const ProgramResult again = run_program({"train", recipe, "--resume"});
  EXPECT_EQ(again.exit_code, 4) << "the cause is still there";
  const ProgramResult mended = run_program({"train", recipe, "base_model=" + good, "--resume"});
  EXPECT_EQ(mended.exit_code, 0) << mended.err;
  EXPECT_NE(mended.err.find("going on after step 13"), std::string::npos) << mended.err;
  EXPECT_EQ(json_of({"inspect", run})["steps"], 24);
  EXPECT_TRUE(fs::exists(run + "/adapter/adapter_model.safetensors"));
}

}  // namespace
}  // namespace ossature
