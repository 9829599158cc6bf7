#include "data/harmony/harmony_conversation.h"

#include <gtest/gtest.h>

#include "tests/data/errors.h"

namespace ossature {
namespace {

using Json = nlohmann::ordered_json;

Json with_messages(const std::string& messages) {
  return Json::parse(R"({"messages": [)" + messages + "]}");
}

TEST(HarmonyConversation, IsToldByContentsThatOnlyTheLibraryHas) {
  EXPECT_TRUE(is_harmony_conversation(with_messages(R"({"role": "system", "content": [{"type": "system_content"}]})")));
  EXPECT_TRUE(is_harmony_conversation(with_messages(
      R"({"role": "user", "content": "q"}, {"role": "developer", "content": [{"type": "developer_content"}]})")));
  EXPECT_FALSE(
      is_harmony_conversation(with_messages(R"({"role": "user", "content": [{"type": "text", "text": "q"}]})")));
  for (const char* other :
       {"{}", "[]", "3", R"({"messages": 3})", R"({"messages": [3, null, {"content": [3, {"type": 3}]}]})"}) {
    EXPECT_FALSE(is_harmony_conversation(Json::parse(other))) << other;
  }
}

TEST(HarmonyConversation, ReadsAllThatTheLibraryWrites) {
  const Conversation conversation = harmony_conversation_of(with_messages(R"(
      {"role": "system", "name": null, "content": [{"type": "system_content", "model_identity": null, "reasoning_effort": "High",
          "tools": {"b": {"name": "bb", "tools": []}, "a": {"name": "aa", "description": "d", "tools": [{"name": "f", "description": "x", "parameters": {"type": "object"}}]}},
          "channel_config": {"valid_channels": ["x"], "channel_required": false}}]},
      {"role": "assistant", "content": "c", "channel": "commentary", "recipient": "functions.f", "content_type": "json", "weight": 0.5},
      {"role": "tool", "name": "functions.f", "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "2"}], "train": false})"));
  ASSERT_TRUE(conversation.is_harmony);
  ASSERT_EQ(conversation.messages.size(), 3u);
  const auto& system = std::get<SystemContent>(conversation.messages[0].parts.at(0));
  EXPECT_TRUE(system.model_identity.is_given && !system.model_identity.value);
  EXPECT_FALSE(system.knowledge_cutoff.is_given);
  EXPECT_EQ(system.reasoning_effort.value, "high");
  EXPECT_EQ(system.valid_channels, std::vector<std::string>{"x"});
  EXPECT_FALSE(system.channel_required);
  ASSERT_EQ(system.tools.size(), 2u);
  EXPECT_EQ(system.tools.at("a").functions.at(0).parameters, R"({"type":"object"})");
  const Message& call = conversation.messages[1];
  EXPECT_EQ(call.channel + "|" + call.recipient + "|" + call.content_type + "|" + *call.content,
            "commentary|functions.f|json|c");
  EXPECT_EQ(call.weight, 0.5f);
  EXPECT_EQ(conversation.messages[2].parts.size(), 2u);
  EXPECT_EQ(conversation.messages[2].weight, 0.0f);
}

TEST(HarmonyConversation, RefusesWhatTheLibraryRefuses) {
  struct Case {
    std::string message, expected;
  };
  const auto system = [](const std::string& content) {
    return R"({"role": "system", "content": [{"type": "system_content", )" + content + "}]}";
  };
  const std::vector<Case> cases = {
      {"", "no message"},
      {"3", "message 1: number; expected an object"},
      {R"({"content": "x"})", "message 1: \"role\" is missing"},
      {R"({"role": "robot", "content": "x"})", "role \"robot\"; expected system"},
      {R"({"role": 3, "content": "x"})", "\"role\" is number; expected a string"},
      {R"({"role": "user"})", "message 1: no content"},
      {R"({"role": "user", "content": 3})", "content is number; expected a string or a list"},
      {R"({"role": "user", "content": [3]})", "message 1: content: number; expected an object"},
      {R"({"role": "user", "content": [{"type": "image"}]})", "a part of type \"image\"; expected text"},
      {R"({"role": "user", "content": [{"type": "text"}]})", "\"text\" is missing"},
      {R"({"role": "user", "content": [{"type": "system_content"}]})",
       "system_content in a message of role user; put it into one of role system"},
      {R"({"role": "system", "content": [{"type": "developer_content"}]})", "put it into one of role developer"},
      {R"({"role": "tool", "content": "x"})", "a tool without name"},
      {R"({"role": "user", "content": "x", "channel": ""})", "\"channel\" is empty; leave it out"},
      {R"({"role": "user", "content": "x", "recipient": 3})", "\"recipient\" is number"},
      {R"({"role": "user", "content": "x", "weight": -1})", "weight is -1; expected a number from 0 up"},
      {R"({"role": "user", "content": "x", "train": 1})", "train is neither true nor false"},
      {system(R"("reasoning_effort": "max")"), "\"reasoning_effort\" is \"max\"; expected Low, Medium or High"},
      {system(R"("model_identity": 3)"), "\"model_identity\" is number"},
      {system(R"("channel_config": {"valid_channels": []})"), "channel_config: expected"},
      {system(R"("channel_config": {"valid_channels": [3], "channel_required": true})"), "strings in it"},
      {system(R"("tools": [])"), "\"tools\" is array; expected an object"},
      {system(R"("tools": {"a": {"tools": []}})"), "tools: a: \"name\" is missing"},
      {system(R"("tools": {"a": {"name": "a"}})"), "tools: a: \"tools\" is missing"},
      {system(R"("tools": {"a": {"name": "a", "tools": [{"name": "f"}]}})"), "\"description\" is missing"},
      {system(R"("tools": {"a": {"name": "a", "tools": [{"name": "f", "description": "", "parameters": 3}]}})"),
       "\"parameters\" is number"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.message);
    expect_data_error([&] { (void)harmony_conversation_of(with_messages(c.message)); }, c.expected);
  }
}

}  // namespace
}  // namespace ossature
