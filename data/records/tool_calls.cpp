#include "data/records/tool_calls.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "data/harmony/python_json.h"

namespace ossature {
namespace {

/// A text member of a call; nullopt if absent or null.
std::optional<std::string> text_of(const Json& object, const char* key, const std::string& where) {
  const auto member = object.find(key);
  if (member == object.end() || member->is_null()) return std::nullopt;
  if (!member->is_string()) throw DataError(where + key + " is " + describe(*member) + "; expected a string");
  return member->get<std::string>();
}

/// As the template's tojson writes them. OpenAI's API gives the JSON text of the arguments, which would be quoted
/// twice.
std::string arguments_of(const Json& call, bool is_json, const std::string& where) {
  const auto member = call.find("arguments");
  if (member == call.end() || member->is_null()) return "{}";
  if (member->is_object()) return python_json(*member);
  const auto expect = [&](const std::string& found) {
    throw DataError(where + "arguments is " + found + "; expected an object or the JSON text of one");
  };
  if (!member->is_string()) expect(describe(*member));
  const auto& text = member->get_ref<const std::string&>();
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) return "{}";
  try {
    const Json inner = parse_json(text);
    if (inner.is_object()) return python_json(inner);
    if (is_json) expect("the text of " + describe(inner));
  } catch (const DataError& error) {
    if (is_json) expect(describe(*member) + " (" + error.what() + ")");
  }
  return python_json(*member);
}

/// The calls of one message, and which are answered.
class Answers {
 public:
  explicit Answers(const GivenMessage& caller) : caller_(caller), results_(caller.calls.size()) {}

  void add(GivenMessage result) {
    const std::size_t call = find(result);
    const bool is_first = results_[call].empty();
    if (!is_first && (calls().size() > 1 || !result.answers.empty())) {
      throw DataError(result.where + "a second result of the call of " + calls()[call].call.name +
                      "; expected one a call");
    }
    if (result.message.name.empty()) result.message.name = calls()[call].call.name;
    results_[call].push_back(std::move(result.message));
  }

  void append_to(std::vector<Message>& messages) {
    for (std::size_t i = 0; i < calls().size(); ++i) {
      if (results_[i].empty() && i + 1 < calls().size()) {
        throw DataError(caller_.where + std::to_string(calls().size()) + " tool calls, and no result of call " +
                        std::to_string(i + 1) + " (" + calls()[i].call.name +
                        "); gpt-oss makes one call at a time and reads its result: add the results, or keep one call");
      }
      Message call = caller_.message;
      if (i > 0) {
        call.content.reset();
        call.thinking.reset();
      }
      call.tool_call = calls()[i].call;
      messages.push_back(std::move(call));
      std::move(results_[i].begin(), results_[i].end(), std::back_inserter(messages));
    }
  }

 private:
  [[nodiscard]] const std::vector<IdentifiedCall>& calls() const { return caller_.calls; }

  /// The first call for which `fits` and, if there is one, without a result yet.
  template <class Fits>
  [[nodiscard]] std::optional<std::size_t> first(const Fits& fits) const {
    std::optional<std::size_t> answered;
    for (std::size_t i = 0; i < calls().size(); ++i) {
      if (!fits(calls()[i])) continue;
      if (results_[i].empty()) return i;
      if (!answered) answered = i;
    }
    return answered;
  }

  [[nodiscard]] std::size_t find(const GivenMessage& result) const {
    const bool has_ids = std::any_of(calls().begin(), calls().end(), [](const auto& call) { return !call.id.empty(); });
    if (has_ids && !result.answers.empty()) {
      if (const auto call = first([&](const auto& c) { return c.id == result.answers; })) return *call;
      std::string ids;
      for (const auto& call : calls()) ids += (ids.empty() ? "" : ", ") + call.id;
      throw DataError(result.where + "tool_call_id \"" + result.answers +
                      "\" answers no call; expected an id of the calls just before it: " + ids);
    }
    const std::string& name = result.message.name;
    if (calls().size() > 1 && !name.empty()) {
      if (const auto call =
              first([&](const auto& c) { return c.call.name == name || "functions." + c.call.name == name; }))
        return *call;
      throw DataError(result.where + "a result of \"" + name + "\", which the calls before it do not have");
    }
    return *first([](const auto&) { return true; });
  }

  const GivenMessage& caller_;
  std::vector<std::vector<Message>> results_;  // of each call
};

}  // namespace

IdentifiedCall read_tool_call(const Json& call, const std::string& where) {
  if (!call.is_object()) throw DataError(where + describe(call) + "; expected an object with name and arguments");
  const auto inner = call.find("function");
  const Json& function = inner != call.end() ? *inner : call;
  if (!function.is_object()) {
    throw DataError(where + "function is " + describe(function) + "; expected an object with name and arguments");
  }
  IdentifiedCall result;
  const auto name = text_of(function, "name", where);
  if (!name || name->empty()) {
    throw DataError(where + "the function's name is missing (found: " + keys_of(function) +
                    "); expected name and arguments");
  }
  result.call.name = *name;
  result.call.content_type = text_of(function, "content_type", where).value_or("json");
  result.call.arguments = arguments_of(function, result.call.content_type.find("json") != std::string::npos, where);
  result.id = text_of(call, "id", where).value_or("");
  return result;
}

std::vector<IdentifiedCall> read_tool_calls(const JsonFields& message) {
  std::vector<IdentifiedCall> calls;
  const std::string name = message.map().name(Field::kToolCalls);
  if (const Json* list = message.find(Field::kToolCalls)) {
    if (!list->is_array()) message.refuse(Field::kToolCalls, "a list of calls");
    for (std::size_t i = 0; i < list->size(); ++i) {
      calls.push_back(read_tool_call((*list)[i], message.where() + name + "[" + std::to_string(i) + "]: "));
    }
  }
  if (const Json* call = message.find(Field::kFunctionCall)) {
    const std::string& legacy = message.map().name(Field::kFunctionCall);
    if (!calls.empty()) message.fail("both " + name + " and " + legacy + "; expected one of them");
    calls.push_back(read_tool_call(*call, message.where() + legacy + ": "));
  }
  return calls;
}

std::vector<Message> one_call_a_message(std::vector<GivenMessage> turns) {
  std::vector<Message> messages;
  std::set<std::string> ids;  // of calls in earlier messages
  for (std::size_t i = 0; i < turns.size(); ++i) {
    GivenMessage& turn = turns[i];
    if (turn.calls.empty()) {
      // Behind its call's message stand others; whether that can be rendered is for the renderer to say.
      if (!turn.answers.empty() && ids.count(turn.answers) == 0) {
        throw DataError(turn.where + "tool_call_id \"" + turn.answers +
                        "\" answers no call; expected the id of a call before it");
      }
      messages.push_back(std::move(turn.message));
      continue;
    }
    std::set<std::string> own_ids;
    for (const IdentifiedCall& call : turn.calls) {
      if (!call.id.empty() && !own_ids.insert(call.id).second) {
        throw DataError(turn.where + "two calls with the id \"" + call.id + "\"; expected one id a call");
      }
    }
    ids.merge(own_ids);
    Answers answers(turn);
    while (i + 1 < turns.size() && turns[i + 1].message.role == "tool") answers.add(std::move(turns[++i]));
    answers.append_to(messages);
  }
  return messages;
}

}  // namespace ossature
