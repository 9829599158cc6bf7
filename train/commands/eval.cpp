#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "data/token_file.h"
#include "data/vocabulary.h"
#include "train/commands/arguments.h"
#include "train/commands/command.h"
#include "train/commands/model_options.h"
#include "train/evaluate.h"

namespace ossature {
namespace {

struct Options {
  ModelOptions model;
  std::filesystem::path data;
  std::optional<std::filesystem::path> logprobs;
  std::int64_t max_tokens = 4096;
  bool json = false;
};

void run(const Options& options) {
  if (options.logprobs) {
    check_output_file(*options.logprobs);
    std::error_code ignored;
    if (std::filesystem::equivalent(*options.logprobs, options.data, ignored))
      throw CLI::ValidationError("--logprobs", "would overwrite " + options.data.string() + ", which is read");
  }
  const auto file = std::make_shared<const TokenFileReader>(options.data);
  const LoadedModel model = load_model(options.model);
  check_vocabulary(*file, model.checkpoint.config().vocab_size, model.checkpoint.dir());
  LossSum sum;
  if (options.logprobs) {
    write_logprobs(*options.logprobs, log_probs(model.transformer, file, options.max_tokens, sum));
  } else {
    sum = evaluate(model.transformer, file, options.max_tokens);
  }
  const bool has_loss = sum.weight > 0.0;
  const double loss = has_loss ? sum.loss / sum.weight : 0.0;
  if (options.json) {
    nlohmann::json result = {
        {"samples", file->num_samples()}, {"tokens", file->num_tokens()}, {"learned_tokens", sum.num_learned}};
    result["loss"] = has_loss ? nlohmann::json(loss) : nlohmann::json();
    result["perplexity"] = has_loss ? nlohmann::json(std::exp(loss)) : nlohmann::json();
    std::cout << result.dump() << "\n";
    return;
  }
  if (has_loss) {
    std::printf("loss %.4f  perplexity %.3f", loss, std::exp(loss));
  } else {
    std::printf("no token is learned, so there is no loss");
  }
  std::printf("  (%lld samples, %lld tokens, %lld learned)\n", static_cast<long long>(file->num_samples()),
              static_cast<long long>(file->num_tokens()), static_cast<long long>(sum.num_learned));
}

}  // namespace

void register_eval(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("eval", "Loss of a token file under a model, with or without an adapter");
  add_model_options(*command, options->model);
  command->add_option("--data", options->data, "Token file")->required()->type_name("FILE.h5");
  command->add_option("--logprobs", options->logprobs, "Also write log p of every token (HDF5, /logprobs)")
      ->type_name("OUT.h5");
  command->add_option("--max-tokens", options->max_tokens, "Tokens computed at once")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  add_threads_option(*command);
  command->add_flag("--json", options->json, "Print one JSON object");
  command->callback([options] { run(*options); });
}

}  // namespace ossature
