#include "model/generate.h"

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "data/formats.h"
#include "data/harmony.h"
#include "data/harmony_reply.h"
#include "data/records.h"
#include "train/commands/arguments.h"
#include "train/commands/command.h"
#include "train/commands/model_options.h"

namespace ossature {
namespace {

struct Options {
  ModelOptions model;
  std::optional<std::string> prompt;
  std::optional<std::filesystem::path> messages;
  std::optional<std::string> instructions, reasoning_effort;
  std::string date;
  std::int64_t max_new_tokens = 512;
  SamplingOptions sampling;
  std::uint64_t seed = 0;
  bool show_thinking = false, raw = false, json = false;
};

/// The conversations to answer. One that ends with the assistant's turn is asked again without it.
std::vector<Conversation> conversations_of(const Options& options) {
  std::vector<Conversation> conversations;
  if (options.prompt) {
    Message question;
    question.role = "user";
    question.content = *options.prompt;
    conversations.emplace_back().messages.push_back(std::move(question));
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
        conversations.push_back(std::move(*conversation));
      }
    }
    if (conversations.empty()) throw DataError(options.messages->string() + ": holds no conversation");
  }
  for (Conversation& conversation : conversations) {
    auto& messages = conversation.messages;
    if (options.instructions) {
      if (!messages.empty() && (messages[0].role == "system" || messages[0].role == "developer")) {
        messages.erase(messages.begin());
      }
      Message instructions;
      instructions.role = "developer";
      instructions.content = *options.instructions;
      messages.insert(messages.begin(), std::move(instructions));
    }
    if (options.reasoning_effort) conversation.reasoning_effort = *options.reasoning_effort;
  }
  return conversations;
}

struct Reply {
  std::vector<std::int32_t> tokens;  // with the one that ended it
  const char* finish = "length";     // return | call | length
};

Reply answer(const Transformer& transformer, const Harmony& harmony, const std::vector<std::int32_t>& prompt,
             const Options& options, std::mt19937_64& generator) {
  Decoder decoder(transformer);
  at::Tensor logits = decoder.feed(prompt);
  Reply reply;
  const auto room = transformer.config().max_position_embeddings - static_cast<std::int64_t>(prompt.size());
  for (std::int64_t n = 0; n < std::min(options.max_new_tokens, room); ++n) {
    const std::int32_t token = sample_token(logits, options.sampling, generator);
    reply.tokens.push_back(token);
    if (token == harmony.return_token()) reply.finish = "return";
    if (token == harmony.call_token()) reply.finish = "call";
    if (token == harmony.return_token() || token == harmony.call_token()) break;
    logits = decoder.feed({&token, 1});
  }
  return reply;
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

void print(const std::vector<GeneratedMessage>& messages, bool show_thinking) {
  for (const GeneratedMessage& message : messages) {
    if (!message.recipient.empty()) {
      std::cout << "[" << message.recipient << "] " << message.content << "\n";
    } else if (message.channel != "analysis") {
      std::cout << message.content << "\n";
    } else if (show_thinking) {
      std::cout << "[thinking] " << message.content << "\n";
    }
  }
}

void run(const Options& options) {
  if (options.prompt.has_value() == options.messages.has_value()) {
    throw CLI::ValidationError("generate", "takes one of --prompt and --messages");
  }
  std::vector<Conversation> conversations = conversations_of(options);
  const Harmony harmony(Tokenizer::load(options.model.model), date_of(options.date));
  std::vector<std::vector<std::int32_t>> prompts;
  for (const Conversation& conversation : conversations) prompts.push_back(harmony.render_prompt(conversation));
  const LoadedModel model = load_model(options.model);
  const ModelConfig& config = model.transformer.config();
  if (harmony.tokenizer().vocab_size() > config.vocab_size) {
    throw DataError(options.model.model.string() + ": tokenizer.json has " +
                    std::to_string(harmony.tokenizer().vocab_size()) + " ids, the model's vocab_size is " +
                    std::to_string(config.vocab_size) + "; put the model's own tokenizer.json there");
  }
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    if (static_cast<std::int64_t>(prompts[i].size()) >= config.max_position_embeddings) {
      throw DataError("conversation " + std::to_string(i + 1) + ": " + std::to_string(prompts[i].size()) +
                      " tokens; the model's max_position_embeddings is " +
                      std::to_string(config.max_position_embeddings));
    }
    std::mt19937_64 generator(options.seed + i);
    const Reply reply = answer(model.transformer, harmony, prompts[i], options, generator);
    const std::vector<GeneratedMessage> messages = parse_reply(harmony.tokenizer(), reply.tokens);
    if (options.json) {
      std::cout << to_json(reply, messages).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
    } else if (options.raw) {
      std::cout << harmony.tokenizer().decode(prompts[i]) << harmony.tokenizer().decode(reply.tokens) << "\n";
    } else {
      print(messages, options.show_thinking);
    }
    std::cout.flush();
    if (std::string_view(reply.finish) == "length") {
      std::cerr << "note: stopped after " << reply.tokens.size() << " tokens; --max-new-tokens allows more\n";
    }
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
  command->add_option("--instructions", options->instructions, "Developer message, instead of the conversation's")
      ->type_name("TEXT");
  command->add_option("--reasoning-effort", options->reasoning_effort, "How long the model should think")
      ->check(CLI::IsMember({"low", "medium", "high"}));
  add_date_option(*command, options->date);
  command->add_option("--max-new-tokens", options->max_new_tokens, "Length at which a reply is cut")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--temperature", options->sampling.temperature, "0: always the most probable token")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--top-k", options->sampling.top_k, "Draw from the k most probable tokens; 0: from all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_option("--top-p", options->sampling.top_p, "Draw from the most probable tokens that reach p together")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "Equal seeds draw equal replies")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command->add_flag("--show-thinking", options->show_thinking, "Print the analysis channel too");
  add_threads_option(*command);
  command->add_flag("--raw", options->raw, "Print the whole sequence in harmony's markup");
  command->add_flag("--json", options->json, "Print one JSON object a conversation");
  command->callback([options] { run(*options); });
}

}  // namespace ossature
