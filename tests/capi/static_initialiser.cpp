// A static initialiser, which the runtime must not have. test_footprint.sh has to find this one.
#include <string>

extern const std::string nwc_made_before_main;
const std::string nwc_made_before_main(100, 'x');
