#include "data/harmony/harmony_library.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "data/harmony/harmony_typescript.h"

namespace ossature {
namespace {

constexpr const char* kFunctions = "functions";

HarmonyRole role_of(const std::string& role, const std::string& where) {
  if (role == "system") return HarmonyRole::kSystem;
  if (role == "developer") return HarmonyRole::kDeveloper;
  if (role == "user") return HarmonyRole::kUser;
  if (role == "assistant") return HarmonyRole::kAssistant;
  if (role == "tool") return HarmonyRole::kTool;
  throw DataError(where + "role \"" + role + "\"; expected system, developer, user, assistant or tool");
}

/// The header as the library writes it: who, to whom, on which channel, of which type.
HarmonyMessage header_of(const Message& message, const std::string& where) {
  HarmonyMessage result;
  result.role = role_of(message.role, where);
  if (result.role == HarmonyRole::kTool) {
    if (message.name.empty())
      throw DataError(where + "a tool without name; expected \"name\", such as \"functions.f\"");
    result.author = {message.name};
  } else {
    result.author = {message.role};
    if (!message.name.empty()) result.author.push_back(":" + message.name);
  }
  if (!message.recipient.empty() && message.recipient != "all") result.author.push_back(" to=" + message.recipient);
  result.channel = message.channel;
  result.content_type = message.content_type;
  result.is_call = result.is_assistant() && !message.recipient.empty();
  result.weight = message.weight;
  return result;
}

std::string joined(const std::vector<std::string>& parts, const std::string& separator) {
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) text += (i > 0 ? separator : "") + parts[i];
  return text;
}

std::string system_text(const SystemContent& content, bool has_functions, const HarmonyOptions& options) {
  const auto chosen = [](const SystemSetting& setting, const std::optional<std::string>& own) {
    return setting.is_given ? setting.value : own;
  };
  std::vector<std::string> sections, about;
  if (const auto identity = chosen(content.model_identity, options.model_identity)) about.push_back(*identity);
  if (const auto cutoff = chosen(content.knowledge_cutoff, options.knowledge_cutoff)) {
    about.push_back("Knowledge cutoff: " + *cutoff);
  }
  if (const auto date = chosen(content.conversation_start_date, options.date))
    about.push_back("Current date: " + *date);
  if (!about.empty()) sections.push_back(joined(about, "\n"));
  if (const auto effort = chosen(content.reasoning_effort, options.reasoning_effort)) {
    sections.push_back("Reasoning: " + *effort);
  }
  if (!content.tools.empty()) sections.push_back(tools_section(content.tools));
  if (!content.valid_channels.empty()) {
    std::string channels = "# Valid channels: " + joined(content.valid_channels, ", ") + ".";
    if (content.channel_required) channels += " Channel must be included for every message.";
    if (has_functions) channels += "\nCalls to these tools must go to the commentary channel: 'functions'.";
    sections.push_back(channels);
  }
  return joined(sections, "\n\n");
}

std::string developer_text(const DeveloperContent& content) {
  std::vector<std::string> sections;
  if (content.instructions) sections.push_back("# Instructions\n\n" + *content.instructions);
  if (!content.tools.empty()) sections.push_back(tools_section(content.tools));
  return joined(sections, "\n\n");
}

bool has_functions(const Message& message) {
  return std::any_of(message.parts.begin(), message.parts.end(), [](const ContentPart& part) {
    const auto* developer = std::get_if<DeveloperContent>(&part);
    if (developer == nullptr) return false;
    const auto found = developer->tools.find(kFunctions);
    return found != developer->tools.end() && !found->second.functions.empty();
  });
}

std::vector<HarmonyMessage> own_messages(const std::vector<Message>& messages, const HarmonyOptions& options) {
  if (messages.empty()) throw DataError("the conversation has no message");
  const bool has_tools = std::any_of(messages.begin(), messages.end(), has_functions);
  std::vector<HarmonyMessage> result;
  for (const Message& message : messages) {
    HarmonyMessage& written =
        result.emplace_back(header_of(message, "message " + std::to_string(result.size() + 1) + ": "));
    if (message.content) written.content = {*message.content};
    for (const ContentPart& part : message.parts) {
      if (const auto* text = std::get_if<std::string>(&part)) written.content.push_back(*text);
      if (const auto* system = std::get_if<SystemContent>(&part)) {
        written.content.push_back(system_text(*system, has_tools, options));
      }
      if (const auto* developer = std::get_if<DeveloperContent>(&part)) {
        written.content.push_back(developer_text(*developer));
      }
    }
  }
  return result;
}

/// The functions under "tools", as OpenAI's API takes them.
ToolNamespace functions_of(const std::string& tools) {
  using Json = nlohmann::ordered_json;
  const Json list = Json::parse(tools, nullptr, /*allow_exceptions=*/false);
  if (!list.is_array()) throw DataError("tools: not a list of functions");
  ToolNamespace result{kFunctions, std::nullopt, {}};
  for (const Json& tool : list) {
    const std::string where = "tools: function " + std::to_string(result.functions.size() + 1) + ": ";
    const Json& json = tool.is_object() && tool.contains("function") ? tool["function"] : tool;
    if (!json.is_object() || !json.contains("name") || !json["name"].is_string()) {
      throw DataError(where + "no \"name\" that is text");
    }
    FunctionDescription& function = result.functions.emplace_back();
    function.name = json["name"].get<std::string>();
    const Json description = json.value("description", Json());
    if (!description.is_null() && !description.is_string()) throw DataError(where + "\"description\" is no text");
    if (description.is_string()) function.description = description.get<std::string>();
    const Json parameters = json.value("parameters", Json());
    if (!parameters.is_null() && !parameters.is_object()) throw DataError(where + "\"parameters\" is no object");
    if (parameters.is_object()) function.parameters = parameters.dump();
  }
  return result;
}

/// Makes the library's messages of a conversation as OpenAI's API and transformers have them.
class Translator {
 public:
  explicit Translator(const Conversation& conversation) : conversation_(conversation) {}

  std::vector<Message> translate() {
    if (conversation_.messages.empty()) throw DataError("the conversation has no message");
    system();
    const std::string& first = conversation_.messages[0].role;
    const bool has_instructions = first == "system" || first == "developer";
    if (!has_instructions && !conversation_.tools.empty()) developer({}, 1.0f);
    for (std::size_t i = 0; i < conversation_.messages.size(); ++i) {
      const Message& message = conversation_.messages[i];
      where_ = "message " + std::to_string(i + 1) + ": ";
      if (message.role == "system" || message.role == "developer") {
        developer(message, message.weight);
      } else if (message.role == "assistant") {
        assistant(message);
      } else if (message.role == "tool") {
        tool(message);
      } else {
        require_content(message);
        result_.push_back(message);
      }
    }
    return std::move(result_);
  }

 private:
  void system() {
    SystemContent content;
    const auto set = [](SystemSetting& setting, const std::string& value) {
      if (!value.empty()) setting = {true, value};
    };
    if (conversation_.model_identity) content.model_identity = {true, conversation_.model_identity};
    set(content.knowledge_cutoff, conversation_.knowledge_cutoff);
    set(content.reasoning_effort, conversation_.reasoning_effort);
    if (conversation_.date) set(content.conversation_start_date, *conversation_.date);
    for (const ToolNamespace* tool : {&browser_tool(), &python_tool()}) {
      if (has_builtin(tool->name)) content.tools[tool->name] = *tool;
    }
    add("system", std::move(content), 1.0f);
  }

  /// The first one describes the functions too.
  void developer(const Message& message, float weight) {
    DeveloperContent content;
    if (!message.content.value_or("").empty()) content.instructions = message.content;
    if (!conversation_.tools.empty() && !has_developer_) content.tools[kFunctions] = functions_of(conversation_.tools);
    has_developer_ = true;
    if (content.instructions || !content.tools.empty()) add("developer", std::move(content), weight);
  }

  void add(const char* role, ContentPart part, float weight) {
    Message& message = result_.emplace_back();
    message.role = role;
    message.parts.push_back(std::move(part));
    message.weight = weight;
  }

  void assistant(const Message& source) {
    if (!source.tool_call && !source.content) throw DataError(where_ + "neither content nor tool_calls");
    if (!source.thinking.value_or("").empty()) said(source, "analysis", *source.thinking);
    if (!source.tool_call) {
      Message& message = said(source, source.channel, *source.content);
      message.recipient = source.recipient;
      message.content_type = source.content_type;
      if (message.channel.empty()) message.channel = source.recipient.empty() ? "final" : channel_of(source.recipient);
      if (!source.recipient.empty()) calls_.push_back(source.recipient);
      return;
    }
    // What is said beside a call is said to the user.
    if (!source.content.value_or("").empty()) said(source, "commentary", *source.content);
    const ToolCall& call = *source.tool_call;
    const std::string recipient = source.recipient.empty() ? full_name(call.name) : source.recipient;
    Message& message = said(source, source.channel.empty() ? channel_of(recipient) : source.channel, call.arguments);
    message.recipient = recipient;
    message.content_type = call.content_type == "json" ? "<|constrain|>json" : call.content_type;
    calls_.push_back(recipient);
  }

  void tool(const Message& source) {
    require_content(source);
    if (calls_.empty()) throw DataError(where_ + "role tool, but no call of the assistant comes before it");
    Message message = source;
    message.name = source.name.empty() ? calls_.back() : full_name(source.name);
    if (std::find(calls_.begin(), calls_.end(), message.name) == calls_.end()) {
      throw DataError(where_ + "a result of \"" + source.name + "\", which was not called; calls of \"" +
                      calls_.back() + "\" came last");
    }
    if (message.recipient.empty()) message.recipient = "assistant";
    if (message.channel.empty()) message.channel = channel_of(message.name);
    result_.push_back(std::move(message));
  }

  Message& said(const Message& source, const std::string& channel, const std::string& content) {
    Message& message = result_.emplace_back();
    message.role = "assistant";
    message.name = source.name;
    message.channel = channel;
    message.content = content;
    message.weight = source.weight;
    return message;
  }

  void require_content(const Message& message) const {
    if (!message.content) throw DataError(where_ + "no content");
  }

  [[nodiscard]] bool has_builtin(const std::string& name) const {
    const auto& names = conversation_.builtin_tools;
    return std::find(names.begin(), names.end(), name) != names.end();
  }
  [[nodiscard]] bool is_builtin(const std::string& recipient) const {
    return has_builtin(recipient.substr(0, recipient.find('.')));
  }
  [[nodiscard]] std::string full_name(const std::string& name) const {
    return name.starts_with("functions.") || is_builtin(name) ? name : "functions." + name;
  }
  /// Functions are called in commentary, the tools that the model was trained with in its analysis.
  [[nodiscard]] std::string channel_of(const std::string& recipient) const {
    return is_builtin(recipient) ? "analysis" : "commentary";
  }

  const Conversation& conversation_;
  std::vector<Message> result_;
  std::vector<std::string> calls_;  // recipients
  std::string where_;
  bool has_developer_ = false;
};

}  // namespace

std::vector<HarmonyMessage> library_messages(const Conversation& conversation, const HarmonyOptions& options) {
  if (conversation.is_harmony) return own_messages(conversation.messages, options);
  return own_messages(Translator(conversation).translate(), options);
}

}  // namespace ossature
