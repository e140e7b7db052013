// The page that `nwc report` fills: report.html, with %DATA% where the figures go, as JSON.
#pragma once

namespace nwc::cli {

extern const char* const kReportPage;

}  // namespace nwc::cli
