// What an action complains of.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "data/data_error.h"

namespace ossature {

/// The message of the DataError that `action` throws; without one the test fails.
template <class Action>
std::string data_error_of(const Action& action) {
  try {
    action();
  } catch (const DataError& error) {
    return error.what();
  }
  ADD_FAILURE() << "no DataError";
  return "";
}

/// Expects that `action` throws a DataError whose message contains `part`.
template <class Action>
void expect_data_error(const Action& action, const std::string& part) {
  const std::string message = data_error_of(action);
  EXPECT_NE(message.find(part), std::string::npos) << message << "\nlacks: " << part;
}

}  // namespace ossature
