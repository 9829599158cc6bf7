#include <unistd.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "data/harmony/harmony_reply.h"
#include "data/records/formats.h"
#include "data/records/records.h"
#include "train/chat/model_tokenizer.h"
#include "train/chat/reply.h"
#include "train/chat/reply_printer.h"
#include "train/commands/arguments.h"
#include "train/commands/command.h"
#include "train/commands/reply_options.h"

namespace ossature {
namespace {

struct Options {
  ModelOptions model;
  ReplyOptions reply;
  std::optional<std::string> prompt;
  std::optional<std::filesystem::path> messages;
  bool show_thinking = false, compare = false, raw = false, json = false;
};

/// The conversations to answer. One that ends with the assistant's turn is asked again without it.
std::vector<Conversation> conversations_of(const Options& options) {
  std::vector<Conversation> conversations;
  if (options.prompt) {
    conversations.emplace_back().messages.push_back(user_message(*options.prompt));
  } else {
    RecordReader reader({*options.messages});
    SampleParser parser;
    constexpr std::size_t kBlockRecords = 1024, kBlockBytes = 4 << 20;
    for (std::vector<Record> block; !(block = reader.next_block(kBlockRecords, kBlockBytes)).empty();) {
      parser.detect(block);
      for (const Record& record : block) {
        Sample sample = parser.parse(record);
        auto* conversation = std::get_if<Conversation>(&sample);
        if (conversation == nullptr)
          throw DataError(record.place() + ": plain text; expected a conversation to answer");
        while (!conversation->messages.empty() && conversation->messages.back().role == "assistant") {
          conversation->messages.pop_back();
        }
        if (conversation->messages.empty())
          throw DataError(record.place() + ": no message is left to answer; expected one that is not the assistant's");
        conversations.push_back(std::move(*conversation));
      }
    }
    if (conversations.empty()) throw DataError(options.messages->string() + ": holds no conversation");
  }
  for (Conversation& conversation : conversations) apply_to(options.reply, conversation);
  return conversations;
}

nlohmann::json to_json(const Reply& reply, const std::vector<GeneratedMessage>& messages) {
  nlohmann::json calls = nlohmann::json::array();
  for (const GeneratedMessage& message : messages) {
    if (!message.recipient.empty()) calls.push_back({{"recipient", message.recipient}, {"arguments", message.content}});
  }
  return {{"reply", content_of(messages, "final")},
          {"thinking", content_of(messages, "analysis")},
          {"tool_calls", std::move(calls)},
          {"finish", reply.finish},
          {"tokens", reply.tokens.size()}};
}

/// Answers prompt `i` with `model`; `printer`, when given, prints it as it comes.
Reply answer(const LoadedModel& model, const Harmony& harmony, const std::vector<std::int32_t>& prompt, std::size_t i,
             const Options& options, ReplyPrinter* printer) {
  std::mt19937_64 generator(options.reply.seed + i);
  Decoder decoder(model.transformer);
  at::Tensor logits = decoder.feed(prompt);
  Reply reply = generate_reply(decoder, std::move(logits), model.transformer.config(), harmony, options.reply.sampling,
                               options.reply.max_new_tokens, generator, [&](std::int32_t token) {
                                 if (printer != nullptr) printer->feed(token);
                                 return true;
                               });
  if (printer != nullptr) printer->finish();
  if (std::string_view(reply.finish) == "length") {
    std::cerr << "note: stopped after " << reply.tokens.size() << " tokens; --max-new-tokens allows more\n";
  }
  return reply;
}

/// A whole reply as it is asked for.
nlohmann::json as_json(const Reply& reply, const Harmony& harmony) {
  return to_json(reply, parse_reply(harmony.tokenizer(), reply.tokens));
}
std::string as_text(const Reply& reply, const Harmony& harmony, const Options& options) {
  if (options.raw) return harmony.tokenizer().decode(reply.tokens);
  std::ostringstream text;
  ReplyPrinter printer(text, harmony.tokenizer(), {options.show_thinking, false});
  for (const std::int32_t token : reply.tokens) printer.feed(token);
  printer.finish();
  std::string result = text.str();
  if (result.ends_with('\n')) result.pop_back();
  return result;
}

std::string dumped(const nlohmann::json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

void run(const Options& options) {
  if (options.prompt.has_value() == options.messages.has_value()) {
    throw CLI::ValidationError("generate", "takes one of --prompt and --messages");
  }
  if (options.compare && !options.model.adapter) {
    throw CLI::ValidationError("--compare", "needs --adapter, which it compares the base model with");
  }
  std::vector<Conversation> conversations = conversations_of(options);
  const Harmony harmony(tokenizer_of(options.model.model), date_of(options.reply.date));
  std::vector<std::vector<std::int32_t>> prompts;
  for (const Conversation& conversation : conversations) prompts.push_back(harmony.render_prompt(conversation));
  const LoadedModel model = load_model(options.model);
  std::optional<LoadedModel> base;  // the same mapped file, so no more memory
  if (options.compare) {
    ModelOptions without = options.model;
    without.adapter.reset();
    base.emplace(load_model(without));
  }
  const ModelConfig& config = model.transformer.config();
  check_tokenizer(harmony, config, options.model.model);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (static_cast<std::int64_t>(prompts[i].size()) >= config.max_position_embeddings) {
      throw DataError("conversation " + std::to_string(i + 1) + ": " + std::to_string(prompts[i].size()) +
                      " tokens; the model's max_position_embeddings is " +
                      std::to_string(config.max_position_embeddings));
    }
    if (options.compare) {
      const Reply of_base = answer(*base, harmony, prompts[i], i, options, nullptr),
                  of_adapter = answer(model, harmony, prompts[i], i, options, nullptr);
      if (options.json) {
        std::cout << dumped({{"base", as_json(of_base, harmony)}, {"adapter", as_json(of_adapter, harmony)}});
      } else {
        std::cout << (i > 0 ? "\n" : "")
                  << side_by_side("-- base", as_text(of_base, harmony, options), "-- adapter",
                                  as_text(of_adapter, harmony, options), terminal_width(STDOUT_FILENO));
      }
    } else if (options.json) {
      std::cout << dumped(as_json(answer(model, harmony, prompts[i], i, options, nullptr), harmony));
    } else if (options.raw) {
      std::cout << harmony.tokenizer().decode(prompts[i])
                << as_text(answer(model, harmony, prompts[i], i, options, nullptr), harmony, options) << "\n";
    } else {
      ReplyPrinter printer(std::cout, harmony.tokenizer(), {options.show_thinking, is_terminal(STDOUT_FILENO)});
      (void)answer(model, harmony, prompts[i], i, options, &printer);
    }
    std::cout.flush();
  }
}

}  // namespace

void register_generate(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("generate", "Answer a prompt or conversations with a model");
  add_model_options(*command, options->model);
  command->add_option("--prompt", options->prompt, "The user's message")->type_name("TEXT");
  command
      ->add_option("--messages", options->messages,
                   "Conversations as prepare takes them; closing turns of the assistant are left out")
      ->type_name("FILE.jsonl");
  add_reply_options(*command, options->reply);
  command->add_flag("--show-thinking", options->show_thinking, "Print the analysis channel too");
  command->add_flag("--compare", options->compare, "Answer with the base model and with the adapter, side by side");
  add_threads_option(*command);
  CLI::Option* raw = command->add_flag("--raw", options->raw, "Print the whole sequence in harmony's markup");
  command->add_flag("--json", options->json, "Print one JSON object a conversation")->excludes(raw);
  command->callback([options] { run(*options); });
}

}  // namespace ossature
