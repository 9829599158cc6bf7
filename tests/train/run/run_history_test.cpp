// What is read back of metrics.jsonl and sessions.jsonl.
#include "train/run/run_history.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/malformed/scratch.h"
#include "train/run/run_sessions.h"

namespace ossature {
namespace {

TEST(RunHistory, IsWhatMetricsWrote) {
  const Scratch scratch;
  {
    MetricsLog log(scratch.path(), 0);
    log.write(ValidationMetrics{0, 4.5, 9, 0.5});
    log.write(StepMetrics{.step = 1,
                          .loss = 3.25,
                          .learning_rate = 1e-4,
                          .grad_norm = 2.5,
                          .tokens = 300,
                          .learned_tokens = 70,
                          .seconds = 1.5,
                          .bookkeeping_seconds = 0.25,
                          .peak_rss_bytes = 3'000,
                          .grad_norms = {{"q_proj", 0.5}},
                          .adapter_norms = {{"q_proj", 0.25}},
                          .channel_tokens = {{"final", 70}},
                          .router_load = {1.5, 2.0},
                          .expert_tokens = {{3, 1}, {0, 4}}});
    log.write(SkippedStep{2, 1, "the gradient of A", "a.h5 (b.jsonl:1)", 200, 60, 2.0});
    log.write(ValidationMetrics{2, 2.5, 9, 0.5});
  }
  const RunHistory history = read_run_history(scratch.path());
  ASSERT_EQ(history.steps.size(), 1U);
  const StepMetrics& step = history.steps[0];
  EXPECT_EQ(step.step, 1);
  EXPECT_EQ(step.loss, 3.25);
  EXPECT_EQ(step.learning_rate, 1e-4);
  EXPECT_EQ(step.grad_norm, 2.5);
  EXPECT_EQ(step.tokens_per_second(), 200.0);
  EXPECT_EQ(step.learned_tokens, 70);
  EXPECT_EQ(step.bookkeeping_seconds, 0.25);
  EXPECT_EQ(step.peak_rss_bytes, 3'000);
  EXPECT_EQ(step.grad_norms, (std::map<std::string, double>{{"q_proj", 0.5}}));
  EXPECT_EQ(step.adapter_norms, (std::map<std::string, double>{{"q_proj", 0.25}}));
  EXPECT_EQ(step.channel_tokens, (std::map<std::string, std::int64_t>{{"final", 70}}));
  EXPECT_EQ(step.router_load, (std::vector<double>{1.5, 2.0}));
  EXPECT_EQ(step.expert_tokens, (std::vector<std::vector<std::int64_t>>{{3, 1}, {0, 4}}));
  ASSERT_EQ(history.skipped.size(), 1U);
  EXPECT_EQ(history.skipped[0].non_finite, "the gradient of A");
  EXPECT_EQ(history.skipped[0].samples, "a.h5 (b.jsonl:1)");
  EXPECT_EQ(history.last_step(), 2);
  EXPECT_EQ(history.tokens(), 300);
  EXPECT_EQ(history.seconds(), 4.5);
  ASSERT_NE(history.best(), nullptr);
  EXPECT_EQ(history.best()->step, 2);
}

TEST(RunHistory, PassesOverWhatIsNoMetrics) {
  const Scratch scratch;
  EXPECT_EQ(read_run_history(scratch.path()).last_step(), 0);
  scratch.write(
      "metrics.jsonl",
      "\n7\n[1]\n{\"step\": \"1\", \"loss\": 1}\n{\"step\": 3}\n{\"step\": 4, \"loss\": \"high\", \"tokens\": "
      "1.5}\n{\"step\": 5, \"lo");
  const RunHistory history = read_run_history(scratch.path());
  ASSERT_EQ(history.steps.size(), 1U);
  EXPECT_EQ(history.steps[0].step, 4);
  EXPECT_TRUE(std::isnan(history.steps[0].loss));
  EXPECT_EQ(history.steps[0].tokens, 0);
  EXPECT_EQ(history.best(), nullptr);
}

TEST(RunSessions, AreReadBack) {
  const Scratch scratch;
  EXPECT_TRUE(read_sessions(scratch.path()).empty());
  const RunSession here = this_session(1);
  EXPECT_GT(here.processors, 0);
  EXPECT_GT(here.threads, 0);
  EXPECT_GT(here.memory_bytes, 100'000'000);
  EXPECT_EQ(here.started.size(), 20U);
  append_session(scratch.path(), here);
  append_session(scratch.path(), {41, "then", "one\ntwo", "a \"processor\"\xff", 2, 1, 5});
  const std::vector<RunSession> read = read_sessions(scratch.path());
  ASSERT_EQ(read.size(), 2U);
  EXPECT_EQ(read[0].version, here.version);
  EXPECT_EQ(read[0].memory_bytes, here.memory_bytes);
  EXPECT_EQ(read[1].first_step, 41);
  EXPECT_EQ(read[1].version, "one\ntwo");
  EXPECT_EQ(read[1].threads, 1);
}

}  // namespace
}  // namespace ossature
