// The fields of one JSON object of training data, under the names of a FieldMap. Internal to data/.
#pragma once

#include <optional>
#include <string>

#include "data/records/field_map.h"
#include "data/records/strict_json.h"

namespace ossature {

/// Errors begin with `where` ("message 2: "), name the field, and say what was found and what was expected.
class JsonFields {
 public:
  /// Both must outlive this. Throws DataError if `object` is none.
  JsonFields(const Json& object, const FieldMap& map, std::string where);

  /// The value of the field, nullptr if it is absent or null. Throws DataError if it stands under two of its names,
  /// with two values, and under its own name it does not.
  [[nodiscard]] const Json* find(Field field) const;
  [[nodiscard]] bool has(Field field) const { return find(field) != nullptr; }

  /// The text of a field that must be there.
  [[nodiscard]] std::string text(Field field, const char* expected = "a string") const;
  [[nodiscard]] std::optional<std::string> optional_text(Field field) const;

  /// Throws DataError of the form "message 2: content is 7; expected `expected`".
  [[noreturn]] void refuse(Field field, const std::string& expected) const;
  [[noreturn]] void fail(const std::string& what) const { throw DataError(where_ + what); }

  [[nodiscard]] const std::string& where() const { return where_; }
  [[nodiscard]] const FieldMap& map() const { return map_; }
  [[nodiscard]] const Json& object() const { return object_; }

 private:
  const Json& object_;
  const FieldMap& map_;
  std::string where_;
};

}  // namespace ossature
