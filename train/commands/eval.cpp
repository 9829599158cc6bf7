#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "data/harmony/segments.h"
#include "data/token_file/token_file.h"
#include "data/token_file/vocabulary.h"
#include "train/commands/arguments.h"
#include "train/commands/command.h"
#include "train/commands/model_options.h"
#include "train/commands/numbers.h"
#include "train/evaluation/evaluation.h"
#include "train/failure/errors.h"
#include "train/loop/learned_channels.h"
#include "train/plan/memory_plan.h"
#include "train/run/training_files.h"
#include "train/text/progress.h"
#include "train/text/visible_text.h"

namespace ossature {
namespace {

struct Options {
  ModelOptions model;
  std::filesystem::path data;
  std::optional<std::filesystem::path> logprobs;
  std::optional<std::filesystem::path> tokenizer;
  std::int64_t max_tokens = 4096;
  bool adapter_only = false, json = false;
};

/// The ids of harmony's tokens: of a tokenizer that made the file, else of o200k_harmony where they fit.
HarmonyTokens harmony_of(const Options& options, const TokenFileReader& file) {
  if (!options.tokenizer) return harmony_tokens_of(file, options.model.model);
  const Tokenizer tokenizer = Tokenizer::load(*options.tokenizer);
  if (!file.tokenizer_sha256().empty() && tokenizer.sha256() != file.tokenizer_sha256())
    throw DataError(options.tokenizer->string() + ": is not the tokenizer that made " + file.path().string());
  return HarmonyTokens::of(tokenizer);
}

nlohmann::json interval_of(const Ratio& estimate) {
  if (!estimate.margin) return nullptr;
  return {estimate.value - *estimate.margin, estimate.value + *estimate.margin};
}

nlohmann::json to_json(const Group& group) {
  const Ratio loss = jackknife(group.loss), accuracy = jackknife(group.accuracy);
  nlohmann::json result = {{"learned_tokens", group.num_learned}};
  if (group.num_learned == 0) {
    for (const char* key : {"loss", "perplexity", "accuracy"}) result[key] = nullptr;
    return result;
  }
  result.update({{"loss", loss.value},
                 {"loss_interval", interval_of(loss)},
                 {"perplexity", std::exp(loss.value)},
                 {"accuracy", accuracy.value},
                 {"accuracy_interval", interval_of(accuracy)}});
  if (loss.margin)
    result["perplexity_interval"] = {std::exp(loss.value - *loss.margin), std::exp(loss.value + *loss.margin)};
  return result;
}

/// A model's figures, or with `base` its figures beside the base model's and their difference.
nlohmann::json to_json(const Group& group, const Group* base) {
  nlohmann::json result = to_json(group);
  if (base == nullptr || group.num_learned == 0) return result;
  const Ratio loss = jackknife(difference(base->loss, group.loss)),
              accuracy = jackknife(difference(base->accuracy, group.accuracy));
  result["base"] = to_json(*base);
  result["difference"] = {{"loss", loss.value},
                          {"loss_interval", interval_of(loss)},
                          {"accuracy", accuracy.value},
                          {"accuracy_interval", interval_of(accuracy)}};
  return result;
}

nlohmann::json to_json(const Evaluation& found, const Evaluation* base) {
  nlohmann::json result = to_json(found.all, base != nullptr ? &base->all : nullptr);
  result["channels"] = result["files"] = nlohmann::json::object();
  for (const auto& [kind, group] : found.channels)
    result["channels"][std::string(name_of(kind))] =
        to_json(group, base != nullptr ? &base->channels.at(kind) : nullptr);
  for (const auto& [name, group] : found.files)
    result["files"][name] = to_json(group, base != nullptr ? &base->files.at(name) : nullptr);
  return result;
}

std::string with_margin(const Ratio& estimate, double scale, int digits) {
  char text[64];
  if (estimate.margin) {
    std::snprintf(text, sizeof text, "%.*f +- %.*f", digits, scale * estimate.value, digits, scale * *estimate.margin);
  } else {
    std::snprintf(text, sizeof text, "%.*f", digits, scale * estimate.value);
  }
  return text;
}

void print_row(const std::string& name, const Group& group, const Group* base) {
  std::printf("  %-28s %9lld  %-18s %-16s", visible_line(name).c_str(), static_cast<long long>(group.num_learned),
              with_margin(jackknife(group.loss), 1.0, 4).c_str(),
              with_margin(jackknife(group.accuracy), 100.0, 1).c_str());
  if (base != nullptr)
    std::printf(" %-10.4f %s", jackknife(base->loss).value,
                with_margin(jackknife(difference(base->loss, group.loss)), 1.0, 4).c_str());
  std::printf("\n");
}

void print_table(const Evaluation& found, const Evaluation* base) {
  std::printf("\n  %-28s %9s  %-18s %-16s%s\n", "", "learned", "loss", "accuracy, %",
              base != nullptr ? " base       adapter - base" : "");
  print_row("all", found.all, base != nullptr ? &base->all : nullptr);
  for (const auto& [kind, group] : found.channels)
    print_row(std::string(name_of(kind)), group, base != nullptr ? &base->channels.at(kind) : nullptr);
  for (const auto& [name, group] : found.files)
    print_row(name, group, base != nullptr ? &base->files.at(name) : nullptr);
  std::printf("  +-: 95 %%, by the jackknife over samples\n");
}

void run(const Options& options) {
  std::optional<OutputFile> logprobs;
  if (options.logprobs) {
    logprobs.emplace(*options.logprobs, OutputFile::Replaces::kHdf5);
    std::error_code ignored;
    if (std::filesystem::equivalent(*options.logprobs, options.data, ignored))
      throw CLI::ValidationError("--logprobs", "would overwrite " + options.data.string() + ", which is read");
  }
  const auto file = std::make_shared<const TokenFileReader>(options.data);
  if (!options.tokenizer) warn_of_other_tokenizer(*file, options.model.model);
  const HarmonyTokens harmony = harmony_of(options, *file);
  const auto evaluated = [&](const ModelOptions& which, bool keeps_log_probs) {
    LoadedModel model = load_model(which);
    check_vocabulary(*file, model.checkpoint.config().vocab_size, model.checkpoint.dir());
    fit_into_memory(model.transformer, model.checkpoint, free_memory());
    Progress progress("eval");
    Evaluation result =
        evaluate_groups(model.transformer, file, harmony, options.max_tokens, keeps_log_probs, [&](std::int64_t done) {
          progress.show(done, file->num_tokens(), {{done, "tokens"}});
        });
    if (result.all.num_learned > 0 && !std::isfinite(jackknife(result.all.loss).value)) {
      throw NonFiniteError(which.model.string() + (which.adapter ? " with " + which.adapter->string() : "") +
                           ": the loss on " + file->path().string() +
                           " is not a finite number; expected one; a weight is damaged, or training diverged");
    }
    return result;
  };
  const Evaluation found = evaluated(options.model, options.logprobs.has_value());
  if (options.logprobs) write_logprobs(*options.logprobs, found.log_probs);
  std::optional<Evaluation> base;
  if (options.model.adapter && !options.adapter_only) {
    ModelOptions without = options.model;
    without.adapter.reset();
    base = evaluated(without, false);
  }
  const Evaluation* compared = base ? &*base : nullptr;
  if (options.json) {
    nlohmann::json result = to_json(found, compared);
    result["samples"] = file->num_samples();
    result["tokens"] = file->num_tokens();
    std::cout << result.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
    return;
  }
  const double loss = jackknife(found.all.loss).value;
  if (found.all.num_learned > 0) {
    std::printf("loss %.4f  perplexity %.3f", loss, std::exp(loss));
  } else {
    std::printf("no token is learned, so there is no loss");
  }
  std::printf("  (%lld samples, %lld tokens, %lld learned)\n", static_cast<long long>(file->num_samples()),
              static_cast<long long>(file->num_tokens()), static_cast<long long>(found.all.num_learned));
  if (found.all.num_learned > 0) print_table(found, compared);
}

}  // namespace

void register_eval(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("eval",
                                         "Loss, perplexity and accuracy on a token file, by channel and source file; "
                                         "with an adapter beside the base model");
  add_model_options(*command, options->model);
  command->add_option("--data", options->data, "Token file")->required()->type_name("FILE.h5");
  command
      ->add_option("--logprobs", options->logprobs,
                   "Also write log p of every token (HDF5, /logprobs); a HDF5 file there is replaced")
      ->type_name("OUT.h5");
  command
      ->add_option("--tokenizer", options->tokenizer,
                   "tokenizer.json that made the file, to tell channels apart; by default the model's own if it did, "
                   "else o200k_harmony")
      ->type_name("DIR");
  command->add_flag("--adapter-only", options->adapter_only, "With --adapter: leave out the base model");
  command->add_option("--max-tokens", options->max_tokens, "Tokens computed at once")
      ->check(whole_number_from(1))
      ->capture_default_str();
  add_threads_option(*command);
  command->add_flag("--json", options->json, "Print one JSON object");
  command->callback([options] { run(*options); });
}

}  // namespace ossature
