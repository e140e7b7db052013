// A workgroup that passes for one subgroup of its size, which may be larger than any device at hand has: for tests
// (tests/vulkan/test_wide_subgroups.cpp). All invocations have to arrive at every ballot, as they have to in a subgroup.
shared uint emulated_words[4];
uvec4 emulated_ballot(bool value) {
  barrier();
  if (gl_LocalInvocationIndex < 4u) emulated_words[gl_LocalInvocationIndex] = 0u;
  barrier();
  if (value) atomicOr(emulated_words[gl_LocalInvocationIndex >> 5], 1u << (gl_LocalInvocationIndex & 31u));
  barrier();
  return uvec4(emulated_words[0], emulated_words[1], emulated_words[2], emulated_words[3]);
}
#define subgroupBallot emulated_ballot
#define subgroupBarrier barrier
#define gl_SubgroupInvocationID gl_LocalInvocationIndex
#define gl_SubgroupSize gl_WorkGroupSize.x
#define gl_SubgroupID 0u
#define gl_NumSubgroups 1u
