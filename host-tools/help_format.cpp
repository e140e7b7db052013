#include "host-tools/help_format.h"

namespace nwc::cli {
namespace {

constexpr size_t kColumns = 100, kDescriptionColumn = 34;

/// Breaks each line at its last space that fits. What follows is indented like a description.
std::string wrap(const std::string& text) {
  std::string out;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    while (line.size() > kColumns) {
      const size_t space = line.rfind(' ', kColumns);
      // A word that is too long for any line stays in one piece.
      if (space == std::string::npos || line.find_last_not_of(' ', space) <= kDescriptionColumn) break;
      out.append(line, 0, space).append("\n");
      line = std::string(kDescriptionColumn, ' ') + line.substr(space + 1);
    }
    out.append(line).append("\n");
    begin = end + 1;
  }
  return out;
}

class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter() { column_width(kDescriptionColumn); }
  std::string make_option(const CLI::Option* option, bool is_positional) const override {
    return wrap(CLI::Formatter::make_option(option, is_positional));
  }
};

}  // namespace

std::shared_ptr<CLI::Formatter> make_help_formatter() { return std::make_shared<HelpFormatter>(); }

}  // namespace nwc::cli
