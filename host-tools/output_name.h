// What the name of an output promises.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "runtime/base/status.h"

namespace nwc::cli {

/// "NAME" and "name" end alike.
bool has_ending(std::string_view path, std::string_view ending);

/// Refuses a name that stands for another kind of file than what is written. written: the endings of that; names that
/// stand for nothing are fine. hint: what to do, the end of the message.
/// errors: kInvalidArgument
Status check_output_name(const std::string& path, std::initializer_list<std::string_view> written,
                         const std::string& hint);

}  // namespace nwc::cli
