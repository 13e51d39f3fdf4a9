/* Settings come from the environment that the bridge composes, and from no file:
 * neither the image's nor the user's. */
#include "src/include/pmix_config.h"
#include "pmix_common.h"
#include "src/util/pmix_keyval_parse.h"

int pmix_util_keyval_parse_lineno = 0;

int pmix_util_keyval_parse(const char *filename, pmix_keyval_parse_fn_t callback)
{
    (void) filename;
    (void) callback;
    return PMIX_ERR_NOT_FOUND;
}

int pmix_util_keyval_parse_init(void)
{
    return PMIX_SUCCESS;
}

void pmix_util_keyval_parse_finalize(void)
{
}

int pmix_util_keyval_save_internal_envars(pmix_keyval_parse_fn_t callback)
{
    (void) callback;
    return PMIX_SUCCESS;
}
