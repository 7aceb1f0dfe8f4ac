# duplicity: a full and an incremental backup, verification, restores of both, removal of the old ones,
# and cleanup of a backup without its manifest.
export PASSPHRASE=password GNUPGHOME=$PWD/gnupg HOME=$PWD
mkdir -m 700 gnupg
target=boto3+s3://duplicity/backup
duplicity() { command duplicity --s3-endpoint-url "$S3_ENDPOINT" --archive-dir "$PWD/archive" "$@"; }

mkdir -p local/deep
head -c 12000000 /dev/urandom >local/large.bin
for number in {1..40}; do
    seq "$number" 1000 >"local/deep/$number"
done
aws --endpoint-url "$S3_ENDPOINT" s3 mb s3://duplicity
duplicity full --volsize 5 local "$target"
cp -r local first
first=$(date +%s)
# Times of backups are seconds.
until (($(date +%s) > first)); do sleep 0.1; done
echo more >>local/deep/1
rm local/deep/2
duplicity incremental --volsize 5 local "$target"
duplicity verify --compare-data "$target" local
duplicity restore "$target" down
diff -r local down
duplicity restore --time "$first" "$target" again
diff -r first again
duplicity full local "$target"
duplicity remove-all-but-n-full 1 --force "$target"
[[ $(duplicity collection-status "$target") == *'Number of contained backup sets: 1'* ]]

echo more >>local/deep/3
duplicity incremental local "$target"
aws --endpoint-url "$S3_ENDPOINT" s3 rm --recursive --exclude '*' --include '*-inc.*.manifest.gpg' "${target#boto3+}/"
rm -r archive
duplicity cleanup --force "$target"
[[ $(aws --endpoint-url "$S3_ENDPOINT" s3 ls "${target#boto3+}/") != *-inc.* ]]
