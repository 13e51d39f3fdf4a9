/* What spank-plugin/build.rs gives to bindgen: Slurm's own header, from the
 * package libslurm-dev or from an installation's include directory. */
#include <slurm/spank.h>
