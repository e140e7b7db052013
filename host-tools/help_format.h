// How the help is laid out.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>

namespace nwc::cli {

/// Options and their descriptions in two columns, with long descriptions broken into lines of at most 100 columns.
std::shared_ptr<CLI::Formatter> make_help_formatter();

}  // namespace nwc::cli
