// Linked into sanitized test programs: libraries stay loaded when they are closed. The leak checker runs at exit and names
// a leak's library by its address; what a Vulkan driver or layer allocates once and never frees has no name any more after
// the loader has unloaded it, so that no suppression (scripts/lsan.supp) can match.
int dlclose(void* handle) {
  (void)handle;
  return 0;
}
