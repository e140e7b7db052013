// A chat template in a form in which templates that differ only in spelling are equal.
#pragma once

#include <string>
#include <string_view>

namespace nwc {

/// What transformers' settings of Jinja (trim_blocks, lstrip_blocks) make of the template, written in one way:
///  - statements as {%...%} and what is printed as {...}, both without white space outside string literals; comments
///  are
///    gone; literal text is {'...'};
///  - neighbouring prints are one, {a+b}, and neighbouring literals 'ab';
///  - literals have single quotes, and escapes \n, \t, \' and \\ alone;
///  - message.role is message['role'], and so for content and for messages[0].
/// The result is only looked at, never run. Any text gives some result.
std::string jinja_code(std::string_view text);

}  // namespace nwc
